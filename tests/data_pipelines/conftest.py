"""Sample trees, prepared data sets and videos, made once for all tests.

Imports that only making them needs are in the functions: quick tests do not pay
for them.
"""

import fcntl
import functools
import os
import shutil

import pytest

from data_pipelines import sample_tree
from data_pipelines import sources


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
  """Function (name, function that makes a folder) -> the folder, made once.

  All of pytest's processes share it: it is above the folders of each of them.
  """
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    base = base.parent
  base = base / 'shared'
  base.mkdir(exist_ok=True)

  def made(name, make):
    with (base / f'{name}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not (base / name).exists():
        make(base / f'{name}.unfinished')
        (base / f'{name}.unfinished').rename(base / name)
    return base / name

  return made


@pytest.fixture(scope='session')
def sample_of(shared):
  """Function: data set -> its sample tree, which tests must not change."""

  @functools.cache
  def written(name):
    return shared(name, functools.partial(sample_tree.write, name))

  return written


@pytest.fixture
def name(request):
  """The data set that a module is about."""
  return request.module.NAME


@pytest.fixture
def sample(name, sample_of):
  """The sample tree of that data set, which tests must not change."""
  return sample_of(name)


@pytest.fixture
def broken(name, request, tmp_path):
  """A copy of the sample tree, for the test to break."""
  sample = 'small_av_mnist' if name == 'av_mnist' else 'sample'
  return shutil.copytree(request.getfixturevalue(sample), tmp_path / 'broken')


@pytest.fixture(scope='session')
def small_av_mnist(shared):
  """A sample tree of AV-MNIST with 24 training and 5 test rows."""

  def write(root):
    from data_pipelines.av_mnist import tree

    tree.write_sample(root, train=24, test=5)

  return shared('small_av_mnist', write)


@pytest.fixture(scope='session')
def data_dir_of(shared, sample_of):
  """Function (data set, configuration) -> where its sample is prepared."""

  @functools.cache
  def prepared(name, config=None):
    if config is None:  # the name of the default one
      config = next(iter(sources.builder_of(name, None).builder_configs))
    manual_dir = sample_of(name) if name in sample_tree.names() else None

    def prepare(folder):
      from tests import clips

      clips.opened(name, manual_dir, folder, config=config)

    return shared(f'prepared_{name}_{config}', prepare)

  return prepared


@pytest.fixture(scope='session')
def stored(data_dir_of):
  """Function (data set, split, configuration) -> elements of its sample."""

  @functools.cache
  def read(name, split='train', config=None):
    from tests import clips

    data_dir = data_dir_of(name, config)
    return clips.opened(name, None, data_dir, split, config)

  return read


@pytest.fixture(scope='session')
def recorded(shared):
  """A folder with three spellings of one video; see `clips.record`."""

  def record(folder):
    from tests import clips

    clips.record(folder)

  return shared('recorded', record)
