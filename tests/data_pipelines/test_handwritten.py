"""The Handwritten data set, and how data sets are prepared."""

import importlib
import itertools
import pathlib
import shutil
import signal
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sources
from data_pipelines.handwritten import archive
from data_pipelines.handwritten import handwritten_dataset_builder
from data_pipelines.handwritten import partition

ROOT = pathlib.Path(__file__).parents[2]
SPLITS = {'train': 1000, 'validation': 200, 'test': 800}
CONFIGS = {
  'six': {'fac', 'fou', 'kar', 'mor', 'pix', 'zer'},
  'three': {'fou', 'mor', 'pix'},
  'two': {'fou', 'pix'},
}


@pytest.fixture(scope='module')
def data_dir(shared):
  def prepare(folder):
    for config in CONFIGS:
      handwritten(folder, config)

  return shared('handwritten', prepare)


@pytest.fixture(scope='module')
def published():
  return archive.read_archive()


def handwritten(data_dir, config='six', split='train'):
  return sources.open_source(
    'handwritten', config=config, split=split, data_dir=data_dir
  )


@pytest.mark.parametrize('config', CONFIGS)
def test_every_stored_value_is_the_published_one(data_dir, published, config):
  for split, order in partition.partition(published['label']).items():
    source = sources.in_memory(handwritten(data_dir, config, split))
    rows = source.arrays['row']
    # The same rows in the same order in every config.
    np.testing.assert_array_equal(rows, order)
    assert len(source) == SPLITS[split]
    assert source.arrays.keys() == CONFIGS[config] | {'label', 'row'}
    for name in CONFIGS[config]:
      assert source.arrays[name].dtype == published[name].dtype
      assert source.arrays[name].tobytes() == published[name][rows].tobytes()
    assert rows.dtype == np.int32
    assert source.arrays['label'].dtype == np.int64
    np.testing.assert_array_equal(
      source.arrays['label'], published['label'][rows]
    )


def test_splits_are_disjoint_cover_everything_and_are_balanced(published):
  parts = partition.partition(published['label'])
  for split, rows in parts.items():
    counts = np.bincount(published['label'][rows], minlength=10)
    assert counts.tolist() == [SPLITS[split] // 10] * 10
  together = np.concatenate(list(parts.values()))
  assert sorted(together.tolist()) == list(range(len(published['label'])))


def test_the_partition_never_changes(published):
  # Recorded once. Results are comparable only while these numbers hold.
  checksums = {
    split: zlib.crc32(rows.astype('<i4').tobytes())
    for split, rows in partition.partition(published['label']).items()
  }
  assert checksums == {
    'train': 924464233,
    'validation': 3251165541,
    'test': 442859659,
  }


def test_classes_are_mixed_in_every_split(published):
  for rows in partition.partition(published['label']).values():
    label = published['label'][rows]
    # Sorted by class, 9 neighbours would differ; mixed, nine tenths do.
    assert np.mean(label[1:] != label[:-1]) > 0.8


def test_partition_follows_labels_not_positions(published):
  order = np.random.RandomState(0).permutation(2000)
  label = published['label'][order]
  for split, rows in partition.partition(label).items():
    counts = np.bincount(label[rows], minlength=10)
    assert counts.tolist() == [SPLITS[split] // 10] * 10


def test_partition_refuses_classes_of_another_size():
  with pytest.raises(ValueError, match=r'200 rows of each class.*1: 199'):
    partition.partition(np.repeat([0, 1], [200, 199]))


def test_six_is_the_default_config(data_dir):
  source = handwritten(data_dir, config=None)
  assert source[0].keys() == CONFIGS['six'] | {'label', 'row'}


def test_the_builder_tells_license_citation_and_valid_tags(data_dir):
  builder = handwritten_dataset_builder.Builder(data_dir=data_dir)
  assert '10.24432/C5HC70' in builder.info.citation
  assert 'Attribution' in builder.info.description
  assert builder.info.redistribution_info.license == 'CC BY 4.0'
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_a_damaged_archive_is_named_with_the_remedy(tmp_path):
  whole = archive.PATH.read_bytes()
  altered = bytearray(whole)
  altered[len(whole) // 2] ^= 1
  path = tmp_path / 'handwritten.npz'
  with pytest.raises(FileNotFoundError, match=r'handwritten\.npz.*checkout'):
    archive.read_archive(path)
  for content in (whole[:-1], bytes(altered), b''):
    path.write_bytes(content)
    with pytest.raises(ValueError, match='truncated or altered') as caught:
      archive.read_archive(path)
    for part in [str(path), archive.SHA256, 'fac [2000, 216]', 'git checkout']:
      assert part in str(caught.value)


def test_a_damaged_archive_stops_the_preparation(tmp_path, monkeypatch):
  monkeypatch.setattr(archive, 'PATH', tmp_path / 'missing.npz')
  with pytest.raises(FileNotFoundError, match=r'missing\.npz'):
    handwritten(tmp_path)
  monkeypatch.undo()
  assert len(handwritten(tmp_path, 'two')) == 1000


# Preparing.


def test_unknown_names_list_the_known_ones(data_dir):
  def attempt(name='handwritten', config='two', split='train'):
    sources.open_source(name, config=config, split=split, data_dir=data_dir)

  with pytest.raises(ValueError, match=r"'mnist'.*handwritten"):
    attempt(name='mnist')
  with pytest.raises(ValueError, match=r"'four'.*six, three, two"):
    attempt(config='four')
  with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
    attempt(split='dev')


def test_preparing_is_silent_and_happens_once_where_the_environment_says(
  tmp_path, monkeypatch, capfd
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  handwritten(None, 'two')
  assert (tmp_path / 'handwritten' / 'two').is_dir()
  monkeypatch.setattr(archive, 'PATH', tmp_path / 'missing.npz')
  assert len(handwritten(None, 'two', split='test')) == 800
  assert capfd.readouterr() == ('', '')


def test_a_preparation_that_fails_half_way_starts_again(tmp_path, monkeypatch):
  examples = handwritten_dataset_builder.Builder._generate_examples

  def interrupted(self, arrays):
    yield from itertools.islice(examples(self, arrays), 150)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(
      handwritten_dataset_builder.Builder, '_generate_examples', interrupted
    )
    with pytest.raises(KeyboardInterrupt):
      handwritten(tmp_path, 'two')
  rows = sources.in_memory(handwritten(tmp_path, 'two')).arrays['row']
  assert len(set(rows.tolist())) == 1000


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
  process = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True
  )
  assert process.returncode == -signal.SIGKILL
  leftover = list((tmp_path / 'handwritten' / 'two').glob('incomplete.*'))
  assert leftover, 'the process was killed too early to leave files'
  assert len(handwritten(tmp_path, 'two', 'validation')) == 200


def test_a_full_disk_is_one_line_and_a_rerun_goes_on(tmp_path):
  """Files may not be longer than 10,000 bytes, as if no more fitted."""
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
  output = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
  )
  (line,) = output.stdout.splitlines()
  for part in (str(tmp_path), 'no space', 'handwritten', 'TFDS_DATA_DIR'):
    assert part in line
  assert len(handwritten(tmp_path, 'two')) == 1000


def test_a_prepared_folder_with_a_lost_file_is_made_again(tmp_path, data_dir):
  folder = 'handwritten/two'
  shutil.copytree(data_dir / folder, tmp_path / folder)
  for lost in ('dataset_info.json', '*train*'):
    (path,) = (tmp_path / folder).glob(f'1.0.0/{lost}')
    path.unlink()
    assert handwritten(tmp_path, 'two')[999]['row'] >= 0
    assert path.exists()


def test_of_two_processes_that_prepare_at_once_both_go_on(
  tmp_path, monkeypatch
):
  generators = handwritten_dataset_builder.Builder._split_generators
  finished = []

  def overtaken(self, dl_manager):
    if not finished:
      finished.append(True)
      # Another preparation starts and ends while this one is under way.
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


def test_the_package_imports_none_of_its_parts_and_no_part_needs_jax():
  program = """
import pkgutil, sys
import data_pipelines
assert not {'grain', 'tensorflow_datasets', 'jax'} & set(sys.modules)
sys.modules['jax'] = None  # whoever imports it now fails
for module in pkgutil.walk_packages(data_pipelines.__path__, 'data_pipelines.'):
  __import__(module.name)
"""
  output = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
  )
  assert output.returncode == 0, output.stderr


@pytest.mark.parametrize(
  ('missing', 'module'),
  [
    ('grain', 'data_pipelines.loader'),
    ('grain', 'data_pipelines.views.transforms'),
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
