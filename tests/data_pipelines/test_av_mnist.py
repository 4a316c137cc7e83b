"""AV-MNIST: from the published tree to the batch, and broken trees."""

import functools
import re
import shutil

import numpy as np
import pytest

from data_pipelines.av_mnist import tree
from tests import clips

COUNTS = {'train': 220, 'validation': 20, 'test': 60}

NAME = 'av_mnist'

opened = functools.partial(clips.opened, NAME)


@pytest.fixture
def broken(tmp_path, small_av_mnist):
  return shutil.copytree(small_av_mnist, tmp_path / 'broken')


def raw(sample, name):
  return np.load(sample / name)


def test_stored_values_are_those_of_the_tree(sample, stored):
  for split, count in COUNTS.items():
    part = 'test' if split == 'test' else 'train'
    elements = stored('av_mnist', split)
    arrays = {
      name: np.stack([element[name] for element in elements])
      for name in elements[0]
    }
    first = COUNTS['train'] if split == 'validation' else 0
    rows = np.arange(first, first + count)
    np.testing.assert_array_equal(arrays['row'], rows)
    image = raw(sample, f'image/{part}_data.npy')[rows]
    np.testing.assert_array_equal(arrays['image'].reshape(count, -1), image)
    # Element [i, j] of a picture is number 28 i + j of its row.
    np.testing.assert_array_equal(arrays['image'][:, 3, 5, 0], image[:, 89])
    audio = raw(sample, f'audio/{part}_data.npy')[rows]
    np.testing.assert_array_equal(arrays['audio'][..., 0], audio)
    labels = raw(sample, f'{part}_labels.npy')[rows]
    np.testing.assert_array_equal(arrays['label'], labels)
    assert arrays['image'].dtype == arrays['audio'].dtype == np.float32


@pytest.mark.parametrize('nested', ['avmnist', ''])
def test_other_spellings_of_the_tree_are_read(broken, tmp_path, nested):
  (broken / 'image').rename(broken / 'images')
  if nested:
    (tmp_path / 'above').mkdir()
    broken.rename(tmp_path / 'above' / nested)
    broken = tmp_path / 'above'
  assert len(tree.read(broken, 'train').image) == 24


def test_the_error_names_a_missing_file_and_lists_those_found(broken, tmp_path):
  (broken / 'audio' / 'test_data.npy').unlink()
  with pytest.raises(FileNotFoundError) as caught:
    opened(broken, tmp_path / 'data')
  expected, found = str(caught.value).split('Found:')
  assert 'has no audio/test_data.npy' in expected
  assert 'audio/train_data.npy, image/test_data.npy' in found


def test_errors_name_damaged_files(broken):
  for name in ('image/train_data.npy', 'train_labels.npy'):
    whole = (broken / name).read_bytes()
    for data, message in (
      (b'version https://git-lfs.github.com/spec/v1', 'pointer of Git LFS'),
      (whole[:-1], 'truncated'),
      (b'', 'truncated'),
      (b'<html>Too many downloads</html>', 'truncated or no array'),
      (whole.replace(b'}', b'(', 1), 'truncated or no array'),
      (whole.replace(b"'<f4'", b"'<U1'", 1), 'holds <U1; expected numbers'),
    ):
      (broken / name).write_bytes(data)
      with pytest.raises(ValueError, match=message) as caught:
        tree.read(broken, 'train')
      assert str(broken / name) in str(caught.value)
    (broken / name).write_bytes(whole)


def test_labels_that_are_no_digits_are_refused(broken):
  for wrong in (10, -1, 2.5, np.nan):
    labels = raw(broken, 'train_labels.npy')
    labels[[3, 7]] = wrong
    np.save(broken / 'train_labels.npy', labels)
    with pytest.raises(ValueError, match=f'2 labels.*{wrong}.* in row 3'):
      tree.read(broken, 'train')


def test_arrays_of_another_shape_are_refused(broken):
  for name, shape in (
    ('image', (23, 784)),
    ('image', (24, 28, 28)),
    ('audio', (24, 112, 111)),
    ('audio', (25, 112, 112)),
  ):
    path = broken / name / 'train_data.npy'
    whole = path.read_bytes()
    np.save(path, np.zeros(shape))
    with pytest.raises(ValueError, match=re.escape(f'{shape}; expected (24, ')):
      tree.read(broken, 'train')
    path.write_bytes(whole)
