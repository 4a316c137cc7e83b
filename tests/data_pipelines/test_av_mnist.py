"""AV-MNIST: from the published tree to the batch, and trees that are broken."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines import sources
from data_pipelines.av_mnist import av_mnist_dataset_builder
from data_pipelines.av_mnist import tree
from data_pipelines.reading import _manual

COUNTS = {'train': 220, 'validation': 20, 'test': 60}


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'av_mnist'
  sample_tree.write('av_mnist', root)
  return root


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, sample):
  folder = tmp_path_factory.mktemp('data')
  opened(sample, folder)
  return folder


@pytest.fixture
def broken(tmp_path):
  """A tree of its own, to break."""
  tree.write_sample(tmp_path / 'broken', train=24, test=5)
  return tmp_path / 'broken'


def opened(manual_dir, data_dir, split='train'):
  return sources.open_source(
    'av_mnist',
    config=None,
    split=split,
    data_dir=data_dir,
    manual_dir=manual_dir,
  )


def raw(sample, name):
  return np.load(sample / name)


@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_tree(sample, data_dir, split):
  part = 'test' if split == 'test' else 'train'
  arrays = sources.in_memory(opened(None, data_dir, split)).arrays
  first = COUNTS['train'] if split == 'validation' else 0
  rows = np.arange(first, first + COUNTS[split])
  np.testing.assert_array_equal(arrays['row'], rows)
  image = raw(sample, f'image/{part}_data.npy')[rows]
  np.testing.assert_array_equal(arrays['image'].reshape(len(rows), -1), image)
  # Element [i, j] of a picture is number 28 i + j of its row.
  np.testing.assert_array_equal(arrays['image'][:, 3, 5, 0], image[:, 89])
  audio = raw(sample, f'audio/{part}_data.npy')[rows]
  np.testing.assert_array_equal(arrays['audio'][..., 0], audio)
  labels = raw(sample, f'{part}_labels.npy')[rows]
  np.testing.assert_array_equal(arrays['label'], labels)
  assert arrays['image'].dtype == arrays['audio'].dtype == np.float32


def test_the_published_split_is_that_of_multibench():
  assert tree.splits(60_000) == {
    'train': slice(0, 55_000),
    'validation': slice(55_000, 60_000),
  }


def test_the_sample_can_be_learned_from_either_modality(sample):
  """Nearest mean of the training rows, which is far from 0.1 by chance."""
  train, test = (tree.read(sample, part) for part in ('train', 'test'))
  for name in ('image', 'audio'):
    one, other = (
      np.asarray(getattr(part, name)).reshape(len(part.label), -1)
      for part in (train, test)
    )
    means = np.stack([one[train.label == i].mean(0) for i in range(10)])
    distance = np.square(other[:, None] - means).sum(-1)
    assert np.mean(distance.argmin(1) == test.label) > 0.9


def test_preparing_says_how_many_rows_are_missing(sample, tmp_path, caplog):
  opened(sample, tmp_path)
  assert "'train': 220" in caplog.text and "'train': 55000" in caplog.text


def test_prepared_once_the_tree_is_not_needed_any_more(data_dir):
  assert len(opened(None, data_dir)) == COUNTS['train']


def test_a_sample_does_not_pass_for_other_data(sample, data_dir, broken):
  with pytest.raises(ValueError, match='was prepared from') as caught:
    opened(broken, data_dir)
  for part in (str(sample), str(broken), 'TFDS_DATA_DIR'):
    assert part in str(caught.value)
  # It stands there from the moment at which the data do.
  (written,) = data_dir.rglob(_manual.ORIGIN)
  assert written.read_text().strip() == str(sample.resolve())
  # The same folder, however it is spelled, and none at all are fine.
  again = opened(sample / '..' / sample.name, data_dir)
  assert len(again) == len(opened(None, data_dir)) == COUNTS['train']


@pytest.mark.parametrize('nested', ['avmnist', ''])
def test_the_other_spellings_of_the_tree(broken, tmp_path, nested):
  (broken / 'image').rename(broken / 'images')
  if nested:
    (tmp_path / 'above').mkdir()
    broken.rename(tmp_path / 'above' / nested)
    broken = tmp_path / 'above'
  assert len(tree.read(broken, 'train').image) == 24


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path, missing):
  folder = tmp_path / missing
  if missing == 'empty':
    folder.mkdir()
  with pytest.raises(FileNotFoundError) as caught:
    opened(folder, tmp_path / 'data')
  for part in (str(folder), 'image/train_data.npy', '(60000, 112, 112)'):
    assert part in str(caught.value)


def test_a_missing_file_shows_what_was_found(broken, tmp_path):
  (broken / 'audio' / 'test_data.npy').unlink()
  with pytest.raises(FileNotFoundError) as caught:
    opened(broken, tmp_path / 'data')
  expected, found = str(caught.value).split('Found:')
  assert 'has no audio/test_data.npy' in expected
  assert 'audio/train_data.npy, image/test_data.npy' in found
  # Repaired, the same command works: nothing half made is left behind.
  tree.write_sample(broken, train=24, test=5)
  assert len(opened(broken, tmp_path / 'data')) == 22


def write_pointer(path):
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1\n')


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def empty(path):
  path.write_bytes(b'')


def write_text(path):
  path.write_text('<html>Too many downloads</html>')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (write_pointer, 'pointer of Git LFS'),
    (truncate, 'truncated'),
    (empty, 'truncated'),
    (write_text, 'truncated or no array'),
  ],
)
@pytest.mark.parametrize('name', ['image/train_data.npy', 'test_labels.npy'])
def test_damaged_files_are_named(broken, tmp_path, name, damage, message):
  damage(broken / name)
  with pytest.raises(ValueError, match=message) as caught:
    opened(broken, tmp_path / 'data')
  assert str(broken / name) in str(caught.value)


@pytest.mark.parametrize('wrong', [10, -1, 2.5, np.nan])
def test_labels_that_are_no_digits_are_refused(broken, wrong):
  labels = raw(broken, 'train_labels.npy')
  labels[[3, 7]] = wrong
  np.save(broken / 'train_labels.npy', labels)
  with pytest.raises(ValueError, match=f'2 labels.*{wrong}.* in row 3'):
    tree.read(broken, 'train')


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('image', (23, 784)),
    ('image', (24, 28, 28)),
    ('audio', (24, 112, 111)),
    ('audio', (25, 112, 112)),
  ],
)
def test_arrays_of_another_shape_are_refused(broken, name, shape):
  np.save(broken / name / 'train_data.npy', np.zeros(shape))
  with pytest.raises(ValueError, match=re.escape(f'{shape}; expected (24, ')):
    tree.read(broken, 'train')


def test_the_builder_tells_citation_and_valid_tags(tmp_path):
  builder = av_mnist_dataset_builder.Builder(data_dir=tmp_path)
  assert 'liang2021multibench' in builder.info.citation
  assert 'rebuild' in builder.info.description
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_samples_are_written_from_the_command_line(tmp_path):
  command = [sys.executable, '-m', 'data_pipelines.sample_tree']

  def run(*arguments):
    return subprocess.run(
      [*command, *arguments], capture_output=True, text=True, check=False
    )

  assert run('av_mnist', str(tmp_path / 'new')).returncode == 0
  assert len(tree.read(tmp_path / 'new', 'test').label) == COUNTS['test']
  again = run('av_mnist', str(tmp_path / 'new'))
  assert again.returncode == 1 and 'is not empty' in again.stderr
  unknown = run('handwritten', str(tmp_path / 'other'))
  assert unknown.returncode == 2 and 'av_mnist' in unknown.stderr
  with pytest.raises(ValueError, match=r"'mnist'.*av_mnist"):
    sample_tree.write('mnist', tmp_path / 'other')
