"""Splits by class and group."""

import zlib

import numpy as np
import pytest

from data_pipelines.reading import stratified

SHARES = {'train': 0.5, 'validation': 0.2, 'test': 0.3}


def grouped(seed=0):
  """Makes three classes; groups of 1 to 12 rows, some of two classes."""
  random = np.random.RandomState(seed)
  labels, groups = [], []
  for group in range(90):
    size = random.randint(1, 5) if group % 9 else 12
    of_two = [group % 3, (group + group % 2) % 3]
    labels += list(random.choice(of_two, size))
    groups += [10 * group + 7] * size
  order = random.permutation(len(labels))
  return np.array(labels)[order], np.array(groups)[order]


def test_each_class_has_its_share_up_to_a_row():
  labels = np.random.RandomState(0).permutation(
    np.repeat([5, 2, 9], [53, 31, 17])
  )
  parts = stratified.split(labels, shares=SHARES)
  for name, share in SHARES.items():
    for each, total in ((5, 53), (2, 31), (9, 17)):
      assert abs(np.sum(labels[parts[name]] == each) - share * total) < 1
  together = np.concatenate(list(parts.values()))
  assert sorted(together) == list(range(len(labels)))
  assert list(parts) == list(SHARES)


def test_no_group_is_in_two_parts_and_classes_are_nearly_balanced():
  labels, groups = grouped()
  parts = stratified.split(labels, groups, SHARES)
  together = np.concatenate(list(parts.values()))
  assert sorted(together) == list(range(len(labels)))
  names = [set(groups[rows]) for rows in parts.values()]
  assert sum(map(len, names)) == len(set(groups))
  for name, share in SHARES.items():
    for each in range(3):
      found = np.mean(np.isin(np.flatnonzero(labels == each), parts[name]))
      assert found == pytest.approx(share, abs=0.05)


def test_equal_seeds_give_equal_splits_and_others_do_not():
  labels, groups = grouped()
  first, again, other = (
    stratified.split(labels, groups, SHARES, seed) for seed in (3, 3, 4)
  )
  for name in SHARES:
    np.testing.assert_array_equal(first[name], again[name])
    assert set(first[name]) != set(other[name])
  # The names of groups do not matter.
  renamed = stratified.split(labels, groups // 2 + 5, SHARES, 3)
  np.testing.assert_array_equal(first['test'], renamed['test'])


def test_the_split_never_changes():
  # Recorded values. Results stay comparable only while these hold.
  labels, groups = grouped()
  rows = stratified.split(labels, groups, SHARES, seed=1)['train']
  assert zlib.crc32(rows.astype('<i8').tobytes()) == 917376133


def test_rows_of_a_part_are_shuffled():
  parts = stratified.split(np.repeat([0, 1, 2], 60))
  for rows in parts.values():
    assert np.any(np.diff(rows) < 0)


def test_the_error_names_a_class_of_too_few_groups():
  labels = np.repeat([4, 7], [30, 20])
  groups = np.where(labels == 7, 99, np.arange(50))
  with pytest.raises(ValueError, match=r'no row of .*groups: \{7: 1\}'):
    stratified.split(labels, groups)
  with pytest.raises(ValueError, match=r'rows: .*9: 1\} and 10 more classes'):
    stratified.split(np.arange(20))


@pytest.mark.parametrize(
  ('labels', 'groups', 'shares', 'match'),
  [
    ([], None, SHARES, r'\(0,\)'),
    ([0, 1], [0, 1, 2], SHARES, r'\(2,\) and \(3,\)'),
    ([[0], [1]], None, SHARES, r'\(2, 1\)'),
    ([0, 1], None, {'train': 0.5, 'test': 0.4}, 'sum to 1'),
    ([0, 1], None, {'train': 1.0, 'test': 0.0}, 'above 0'),
  ],
)
def test_wrong_arguments_are_refused(labels, groups, shares, match):
  groups = groups if groups is None else np.array(groups)
  with pytest.raises(ValueError, match=match):
    stratified.split(np.array(labels), groups, shares)
