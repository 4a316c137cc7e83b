"""HTAD: the table's columns, and damaged rows."""

import csv

import numpy as np
import pytest

from data_pipelines.htad import tree
from tests import clips


@pytest.fixture
def table(tmp_path, sample_of):
  """A function that writes a table of changed rows of the sample."""
  with (sample_of('htad') / 'htad.csv').open(newline='') as file:
    rows = list(csv.reader(file))

  def write(change, name='htad.csv'):
    changed = change([list(row) for row in rows])
    with (tmp_path / name).open('w', newline='') as file:
      csv.writer(file).writerows(changed)
    return tmp_path

  return write


def test_values_are_those_of_their_columns(sample_of, stored):
  with (sample_of('htad') / 'htad.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  for split in clips.SPLITS:
    for element in stored('htad', split):
      row = rows[element['row']]
      assert tree.CLASSES[element['label']] == row['class']
      assert element['audio'].shape == (36,)
      assert element['audio'][11] == np.float32(row['v1_mfcc12'])
      assert element['accelerometer'].shape == (16,)
      assert element['accelerometer'][4] == np.float32(row['v2_sdY'])
      assert element['accelerometer'].dtype == np.float32


def test_classes_have_their_shares_in_every_split(stored):
  for split, count in zip(clips.SPLITS, (12, 4, 4), strict=True):
    labels = [int(element['label']) for element in stored('htad', split)]
    assert np.bincount(labels).tolist() == [count] * 7
    assert labels != sorted(labels)


def test_preparing_again_gives_the_same_rows(sample_of, stored, tmp_path):
  again = clips.opened('htad', sample_of('htad'), tmp_path, 'test')
  assert [e['row'] for e in again] == [e['row'] for e in stored('htad', 'test')]


def test_columns_may_be_in_another_order_and_others_are_ignored(
  table, sample_of
):
  expected = tree.read(sample_of('htad'))
  root = table(
    lambda rows: [[*row[:0:-1], 'x', row[0]] for row in rows] + [[]],
    'dataset.csv',
  )
  found = tree.read(root)
  np.testing.assert_array_equal(found.label, expected.label)
  for name in tree.COLUMNS:
    np.testing.assert_array_equal(found.features[name], expected.features[name])


def changed(row, column, value):
  def change(rows):
    rows[row][rows[0].index(column)] = value
    return rows

  return change


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (changed(3, 'v2_meanZ', ''), r"row 3, column v2_meanZ: ''; .*finite"),
    (changed(1, 'v1_mfcc7', 'nan'), r"row 1, column v1_mfcc7: 'nan'"),
    (changed(5, 'v1_mfcc7', '-inf'), r'row 5, column v1_mfcc7'),
    (changed(5, 'v1_mfcc7', '1e39'), r'row 5, column v1_mfcc7'),
    (changed(9, 'class', 'jump'), r"row 9, column class: 'jump'.*brush_teeth"),
    (changed(0, 'v2_auc', 'v2_area'), r'53 columns.*: v2_auc\.'),
    (changed(0, 'v2_auc', 'v2_sdX'), r'repeated: v2_sdX, v2_auc\.'),
    (lambda rows: [*rows[:-1], rows[-1][:9]], r'row 140, has 9 columns'),
    (lambda rows: rows[:1], 'no row'),
    (lambda _: [], 'has 0 columns'),
  ],
)
def test_errors_name_row_and_column(table, change, match):
  with pytest.raises(ValueError, match=match) as caught:
    tree.read(table(change))
  assert 'htad.csv' in str(caught.value)
