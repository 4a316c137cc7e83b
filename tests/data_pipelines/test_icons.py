"""The icons: near-copies stay together; words do not name the category."""

import itertools
import zlib

import numpy as np
import pytest

from data_pipelines.icons import archive
from data_pipelines.icons import grouping
from data_pipelines.icons import words
from tests import clips


@pytest.fixture(scope='module')
def splits(stored):
  return {
    split: clips.stacked(stored('icons', split)) for split in clips.SPLITS
  }


@pytest.fixture(scope='module')
def published():
  return archive.read_archive()


def test_stored_values_are_the_published_ones(splits, published):
  rows = np.concatenate([arrays['row'] for arrays in splits.values()])
  assert sorted(rows.tolist()) == list(range(4981))
  for arrays in splits.values():
    rows = arrays['row']
    np.testing.assert_array_equal(
      arrays['picture'][..., 0], published['picture'][rows]
    )
    assert arrays['picture'].dtype == arrays['tags'].dtype == np.uint8
    np.testing.assert_array_equal(arrays['name'], published['name'][rows])
    categories = np.array(archive.CATEGORIES)[arrays['label']]
    np.testing.assert_array_equal(categories, published['category'][rows])
    for row in range(0, len(rows), 97):
      found = words.words(str(published['tags'][rows[row]]))
      places = {zlib.crc32(word.encode()) % 1024 for word in found}
      assert set(np.flatnonzero(arrays['tags'][row])) == places
      assert arrays['tags'][row].max() == 1


def test_no_near_copy_is_in_two_splits(splits):
  """Checked by names and pictures, not by the stored groups."""
  for one, other in itertools.combinations(splits.values(), 2):
    a, b = (
      arrays['picture'].reshape(len(arrays['row']), -1).astype(float)
      for arrays in (one, other)
    )
    lengths = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    assert np.max(a @ b.T / lengths) <= grouping.SIMILARITY + 1e-9
    first, second = ({*arrays['name'].tolist()} for arrays in (one, other))
    for names, others in ((first, second), (second, first)):
      for name in names:
        parts = name.split('-')
        begins = {'-'.join(parts[:k]) for k in range(2, len(parts))}
        assert not begins & others, name
        assert len(parts) < 2 or parts[1] != 'off' or parts[0] not in others


def test_every_category_has_its_share_of_every_split(splits):
  counts = np.stack(
    [np.bincount(a['label'], minlength=24) for a in splits.values()]
  )
  shares = counts / counts.sum(0)
  # More than a third of Database is one group.
  database = archive.CATEGORIES.index('Database')
  assert np.all(shares[:, database] > 0.1)
  others = np.delete(shares.T, database, axis=0)
  np.testing.assert_allclose(others, [[0.6, 0.2, 0.2]] * 23, atol=0.03)


def test_the_groups_and_the_split_never_change(splits):
  # Recorded values. Results stay comparable only while these hold.
  assert {
    split: zlib.crc32(
      np.stack([arrays['row'], arrays['group']]).astype('<i4').tobytes()
    )
    for split, arrays in splits.items()
  } == {
    'train': 4188013006,
    'validation': 3267225824,
    'test': 512272353,
  }


def test_no_word_names_a_category(published):
  texts = np.array([{*words.words(str(tags))} for tags in published['tags']])
  found = set.union(*texts)
  assert len(found) > 4000
  assert not {'logo', 'commerce'} & found
  for name in archive.CATEGORIES:
    assert not {name.lower(), words.stem(name)} & found, name
    # Nor does any other word occur in all icons of one category.
    assert not set.intersection(*texts[published['category'] == name]), name


def test_groups_are_chains_of_families_and_of_near_copies():
  random = np.random.RandomState(0)
  pictures = random.randint(0, 256, (6, 5, 5)).astype(np.uint8)
  pictures[4] = pictures[1]
  pictures[4, 0, 0] ^= 16  # nearly
  names = ['home', 'cup', 'home-off', 'home-plus-2', 'jar-up', 'home-door']
  assert grouping.groups(names, pictures).tolist() == [0, 1, 0, 0, 1, 2]
  # Families and pictures together make a chain.
  names[5] = 'jar'
  assert grouping.groups(names, pictures).tolist() == [0, 1, 0, 0, 1, 1]
