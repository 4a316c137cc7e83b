"""AV-MNIST: from the published tree to the batch, and broken trees."""

import re

import numpy as np
import pytest

from data_pipelines.av_mnist import tree
from tests import clips

COUNTS = {'train': 220, 'validation': 20, 'test': 60}
NAME = 'av_mnist'


def test_stored_values_are_those_of_the_tree(sample, stored):
  for split, count in COUNTS.items():
    part = 'test' if split == 'test' else 'train'
    arrays = clips.stacked(stored('av_mnist', split))
    first = COUNTS['train'] if split == 'validation' else 0
    rows = np.arange(first, first + count)
    np.testing.assert_array_equal(arrays['row'], rows)
    image = np.load(sample / f'image/{part}_data.npy')[rows]
    np.testing.assert_array_equal(arrays['image'].reshape(count, -1), image)
    # Element [i, j] of a picture is number 28 i + j of its row.
    np.testing.assert_array_equal(arrays['image'][:, 3, 5, 0], image[:, 89])
    audio = np.load(sample / f'audio/{part}_data.npy')[rows]
    np.testing.assert_array_equal(arrays['audio'][..., 0], audio)
    labels = np.load(sample / f'{part}_labels.npy')[rows]
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
      where = f'{broken / name}.*{message}'
      with pytest.raises(ValueError, match=where):
        tree.read(broken, 'train')
    (broken / name).write_bytes(whole)


def test_labels_that_are_no_digits_are_refused(broken):
  for wrong in (10, -1, 2.5, np.nan):
    labels = np.load(broken / 'train_labels.npy')
    labels[[3, 7]] = wrong
    np.save(broken / 'train_labels.npy', labels)
    message = f'2 labels.*{wrong}.* in row 3'
    with pytest.raises(ValueError, match=message):
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
    message = re.escape(f'{shape}; expected (24, ')
    with pytest.raises(ValueError, match=message):
      tree.read(broken, 'train')
    path.write_bytes(whole)
