"""The Handwritten data set, and how data sets are prepared."""

import errno
import importlib
import pathlib
import shutil
import signal
import subprocess
import sys
import zlib

import chex
import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.handwritten import archive
from data_pipelines.handwritten import handwritten_dataset_builder

ROOT = pathlib.Path(__file__).parents[2]
SPLITS = {'train': 1000, 'validation': 200, 'test': 800}
CONFIGS = {
  'six': {'fac', 'fou', 'kar', 'mor', 'pix', 'zer'},
  'three': {'fou', 'mor', 'pix'},
  'two': {'fou', 'pix'},
}


@pytest.fixture(scope='module')
def data_dir(data_dir_of):
  return data_dir_of('handwritten', 'two')


@pytest.fixture(scope='module')
def published():
  return archive.read_archive()


def handwritten(data_dir, config='six', split='train'):
  return sources.open_source(
    'handwritten', config=config, split=split, data_dir=data_dir
  )


def ran(program):
  return subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
  )


@pytest.mark.parametrize('config', CONFIGS)
def test_stored_values_are_the_published_ones(data_dir_of, published, config):
  data_dir = data_dir_of('handwritten', config)
  for split, rows in archive.partition(published['label']).items():
    source = handwritten(data_dir, config, split)
    assert len(source) == SPLITS[split]
    wanted = {name: published[name][rows] for name in CONFIGS[config]}
    label = published['label'][rows].astype(np.int64)
    # The same rows in the same order in every config.
    wanted |= {'label': label, 'row': rows.astype(np.int32)}
    arrays = sources.in_memory(source).arrays
    chex.assert_trees_all_equal(arrays, wanted, strict=True)


def test_the_partition_never_changes(published):
  # Recorded values. Results stay comparable only while these hold.
  checksums = {
    split: zlib.crc32(rows.astype('<i4').tobytes())
    for split, rows in archive.partition(published['label']).items()
  }
  assert checksums == {
    'train': 924464233,
    'validation': 3251165541,
    'test': 442859659,
  }


def test_the_partition_is_balanced_and_mixes_classes():
  label = np.random.RandomState(0).permutation(np.repeat(np.arange(10), 200))
  parts = archive.partition(label)
  for split, rows in parts.items():
    assert set(np.bincount(label[rows])) == {SPLITS[split] // 10}
    # If sorted by class, 9 neighbours would differ; if mixed, nine tenths do.
    assert np.mean(np.diff(label[rows]) != 0) > 0.8
  together = np.concatenate(list(parts.values()))
  assert sorted(together.tolist()) == list(range(2000))


# Preparing.


def test_errors_of_unknown_names_list_the_known_ones(data_dir):
  for name, config, split, message in (
    ('mnist', 'two', 'train', "'mnist'.*handwritten"),
    ('handwritten', 'four', 'train', "'four'.*six, three, two"),
    ('handwritten', 'two', 'dev', "'dev'.*train, validation, test"),
  ):
    where = {'config': config, 'split': split, 'data_dir': data_dir}
    with pytest.raises(ValueError, match=message):
      sources.open_source(name, **where)


def test_preparing_is_silent_and_happens_once_where_the_environment_says(
  tmp_path, monkeypatch, capfd
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  handwritten(None, 'two')
  assert (tmp_path / 'handwritten' / 'two').is_dir()
  monkeypatch.setattr(archive, 'PATH', tmp_path / 'missing.npz')
  assert len(handwritten(None, 'two', split='test')) == 800
  assert capfd.readouterr() == ('', '')


def test_a_preparation_that_is_killed_starts_again(tmp_path):
  program = f"""
import os, signal
from data_pipelines import sources
from data_pipelines.handwritten import handwritten_dataset_builder as module
examples = module.Builder._generate_examples
def killed(self, arrays):
  for number, example in enumerate(examples(self, arrays)):
    if len(arrays['row']) == 200 and number == 99:
      os.kill(os.getpid(), signal.SIGKILL)
    yield example
module.Builder._generate_examples = killed
sources.open_source(
  'handwritten', config='two', split='train', data_dir={str(tmp_path)!r}
)
"""
  assert ran(program).returncode == -signal.SIGKILL
  leftover = list((tmp_path / 'handwritten' / 'two').glob('incomplete.*'))
  assert leftover, 'the process was killed too early to leave files'
  assert len(handwritten(tmp_path, 'two', 'validation')) == 200


def test_a_full_disk_is_one_line_and_a_rerun_continues(tmp_path):
  """A full disk is simulated by limiting files to 10,000 bytes."""
  program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
from data_pipelines import sources
try:
  sources.open_source(
    'handwritten', config='two', split='train', data_dir={str(tmp_path)!r}
  )
except OSError as error:
  print(error)
"""
  (line,) = ran(program).stdout.splitlines()
  for part in (str(tmp_path), 'no space', 'handwritten', 'TFDS_DATA_DIR'):
    assert part in line
  assert len(handwritten(tmp_path, 'two')) == 1000


def test_a_prepared_folder_with_a_missing_file_is_prepared_again(
  tmp_path, data_dir
):
  folder = 'handwritten/two'
  shutil.copytree(data_dir / folder, tmp_path / folder)
  for lost in ('dataset_info.json', '*train*'):
    (path,) = (tmp_path / folder).glob(f'1.0.0/{lost}')
    path.unlink()
    assert handwritten(tmp_path, 'two')[999]['row'] >= 0
    assert path.exists()


def test_two_processes_may_prepare_at_the_same_time(tmp_path, monkeypatch):
  generators = handwritten_dataset_builder.Builder._split_generators
  finished = []

  def overtaken(self, dl_manager):
    if not finished:
      finished.append(True)
      # Another preparation starts and ends during this one.
      handwritten(tmp_path, 'two')
    return generators(self, dl_manager)

  monkeypatch.setattr(
    handwritten_dataset_builder.Builder, '_split_generators', overtaken
  )
  assert len(handwritten(tmp_path, 'two')) == 1000
  assert finished
  assert not list((tmp_path / 'handwritten' / 'two').glob('incomplete.*'))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
  (tmp_path / 'handwritten').write_text('not a folder')
  with pytest.raises(OSError, match='handwritten'):
    handwritten(tmp_path)


@pytest.mark.parametrize(
  ('number', 'file', 'message'),
  [
    (errno.EACCES, 'prepared/handwritten', r'TFDS_DATA_DIR.*handwritten'),
    (errno.EROFS, 'prepared/handwritten', r'TFDS_DATA_DIR.*handwritten'),
    (errno.EACCES, 'mine/a.csv', r"no: .*mine/a\.csv'$"),
  ],
)
def test_only_where_nothing_may_be_written_another_place_is_named(
  tmp_path, monkeypatch, number, file, message
):
  def refuse(*_, **__):
    raise OSError(number, 'no', str(tmp_path / file))

  builder = handwritten_dataset_builder.Builder
  monkeypatch.setattr(builder, 'download_and_prepare', refuse)
  with pytest.raises(OSError, match=message) as raised:
    handwritten(tmp_path / 'prepared')
  assert raised.value.errno == number


def test_the_package_imports_no_module_and_no_module_needs_jax():
  program = """
import pkgutil, sys
import data_pipelines
assert not {'grain', 'tensorflow_datasets', 'jax'} & set(sys.modules)
sys.modules['jax'] = None  # whoever imports it now fails
for module in pkgutil.walk_packages(data_pipelines.__path__, 'data_pipelines.'):
  __import__(module.name)
"""
  output = ran(program)
  assert output.returncode == 0, output.stderr


@pytest.mark.parametrize(
  ('missing', 'module'),
  [
    ('grain', 'data_pipelines.loader'),
    ('grain', 'data_pipelines.views.transforms'),
    ('PIL', 'data_pipelines.views.frames'),
    ('librosa', 'data_pipelines.views.audio'),
    ('scipy', 'data_pipelines.views.audio'),
    ('tensorflow_datasets', 'data_pipelines.reading.prepared'),
    ('importlib_resources', 'data_pipelines.reading.builder'),
  ],
)
def test_a_missing_package_names_the_extra(monkeypatch, missing, module):
  monkeypatch.setitem(sys.modules, missing, None)
  monkeypatch.delitem(sys.modules, module, raising=False)
  with pytest.raises(ModuleNotFoundError, match=r"'mimo-jax\[data\]'") as error:
    importlib.import_module(module)
  assert error.value.name == missing


def test_a_builder_without_tfds_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  for module in ('reading.builder', 'icons.icons_dataset_builder'):
    monkeypatch.delitem(sys.modules, f'data_pipelines.{module}', raising=False)
  with pytest.raises(ModuleNotFoundError, match=r"'mimo-jax\[data\]'"):
    sources.builder_of('icons', None)
