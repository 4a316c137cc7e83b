"""What tests share: sample trees, rows, and compiled programs of runs."""

import functools
import json
import sys

import pytest

from tests.data_pipelines.conftest import data_dir_of as data_dir_of
from tests.data_pipelines.conftest import sample_of as sample_of
from tests.data_pipelines.conftest import shared as shared


@pytest.fixture(scope='module')
def reused_programs():
  """Lets runs of a configuration reuse the programs of an earlier run.

  So a run that is resumed in the same process is not traced and compiled again.
  Its checkpoint is still read. Tests that kill processes compile again.
  """
  from experiments.core import configuration
  from experiments.core import program
  from experiments.core import together

  made = {}

  def kept(make):
    def of(config, *arguments):
      what = [make.__name__, config.to_dict(), *arguments]
      key = json.dumps(what, sort_keys=True, default=repr)
      if key not in made:
        made[key] = make(configuration.with_values(config, {}), *arguments)
      return made[key]

    return of

  with pytest.MonkeyPatch.context() as patch:
    for module, name in ((program, 'alone'), (together, 'together')):
      patch.setattr(module, name, kept(getattr(module, name)))
    yield


_digits = {}


def _decoded_once(open_source, name, **options):
  """`sources.open_source`, with the digits cached in memory."""
  if name != 'handwritten':
    return open_source(name, **options)
  key = options.get('config'), options.get('split', 'train')
  if key not in _digits:
    sources = sys.modules['data_pipelines.sources']
    _digits[key] = sources.in_memory(open_source(name, **options))
  return _digits[key]


@pytest.fixture(autouse=True, scope='module')
def digits():
  """Caches the digits: most tests train on them, and each run decodes them."""
  sources = sys.modules.get('data_pipelines.sources')
  if sources is None:  # the tests of this module need no data
    yield
    return
  once = functools.partial(_decoded_once, sources.open_source)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sources, 'open_source', once)
    yield
