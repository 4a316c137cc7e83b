"""Numbers as targets of a user's own data: reading, gaps, splits."""

import numpy as np
import pytest

from data_pipelines import arrays
from data_pipelines import folders
from data_pipelines import own_splits
from data_pipelines import redrawing
from data_pipelines import sources
from tests import clips
from tests.data_pipelines import toys

ROWS = 60
NUMBERS = 20_000 + 1000 * np.random.RandomState(0).normal(size=ROWS)
WHOLE = NUMBERS.astype(int)
LACKS = np.arange(ROWS) % 9 == 4


def columns(label, **others):
  left = np.random.RandomState(1).normal(size=(ROWS, 2))
  return {'left': left, 'label': label, **others}


def gaps(values, gap):
  return [gap if none else v for none, v in zip(LACKS, values, strict=True)]


def write_list(path, label):
  lines = [f'word {i},{each}' for i, each in enumerate(label)]
  path.write_text('\n'.join(['note,label', *lines]))
  return path


def ways(tmp_path):
  """Writes files with the same targets and the same gaps."""
  said = {'label_present': ~LACKS}
  for name, label, more in (
    ('nan.npz', np.array(gaps(NUMBERS, np.nan)), {}),
    ('said.npz', NUMBERS, said),
    ('null.parquet', gaps(NUMBERS.tolist(), None), {}),
    ('nan.parquet', gaps(NUMBERS.tolist(), float('nan')), {}),
  ):
    yield str(toys.write_columns(tmp_path / name, columns(label, **more)))
  yield str(write_list(tmp_path / 'empty.csv', gaps(NUMBERS, '')))
  yield str(write_list(tmp_path / 'nan.csv', gaps(NUMBERS, 'nan')))


def read(path):
  return (folders if '.csv' in path else arrays).read(path)


def test_numbers_are_targets_in_every_kind_of_file(tmp_path):
  for path in ways(tmp_path):
    table = read(path)
    assert table.target.is_regression and table.target.classes == ()
    assert table.target.label.dtype == np.float64, path
    np.testing.assert_array_equal(
      table.target.label, np.where(LACKS, np.nan, NUMBERS), err_msg=path
    )
    np.testing.assert_array_equal(table.split == '', LACKS)
    counts = {split: np.sum(table.split == split) for split in table.split}
    assert counts == {'': 7, 'train': 32, 'validation': 11, 'test': 10}, path


def test_whole_numbers_are_targets_if_the_file_says_so(tmp_path):
  paths = [
    toys.write_columns(tmp_path / 'a.npz', columns(WHOLE)),
    toys.write_columns(tmp_path / 'b.npz', columns(WHOLE.astype(float))),
    toys.write_columns(tmp_path / 'c.parquet', columns(WHOLE)),
    write_list(tmp_path / 'd.csv', WHOLE),
    write_list(tmp_path / 'e.csv', [f'{one}.0' for one in WHOLE]),
  ]
  for path in map(str, paths):
    with pytest.raises(ValueError, match=r'no row of these .*FILE,reg'):
      read(path)
    target = read(f'{path},regression').target
    assert target.is_regression and target.label.dtype == np.float64
    np.testing.assert_array_equal(target.label, WHOLE)
  few = str(toys.write_columns(tmp_path / 'f.npz', columns(WHOLE % 3)))
  assert read(few).target.classes == (0, 1, 2)
  assert read(f'{few},regression').target.classes == ()
  assert not read(few).target.is_regression


def test_minus_one_is_a_number_and_asked_of_classes(tmp_path):
  path = str(toys.write_columns(tmp_path / 'a.npz', columns(WHOLE % 3 - 1)))
  with pytest.raises(ValueError, match=r'-1 beside 0, 1: .*FILE,regression'):
    read(path)
  assert read(f'{path},regression').target.is_there.all()
  path = str(write_list(tmp_path / 'b.csv', WHOLE % 3 - 1))
  with pytest.raises(ValueError, match=r'-1 beside 0, 1: .*FILE,regression'):
    read(path)
  assert min(read(f'{path},regression').target.label) == -1


def test_rows_come_with_their_numbers_and_groups_are_whole(tmp_path):
  group = np.arange(ROWS) // 4
  path = toys.write_columns(
    tmp_path / 'a.npz', columns(np.array(gaps(WHOLE, np.nan)), group=group)
  )
  seen, groups = [], []
  for split in own_splits.SPLITS:
    source = sources.open_source(
      'arrays', config=f'{path},regression', split=split
    )
    rows = source.arrays['row']
    np.testing.assert_array_equal(source.arrays['label'], WHOLE[rows])
    seen += rows.tolist()
    groups.append(set(group[rows]))
  assert sorted(seen) == np.flatnonzero(~LACKS).tolist()
  assert sum(map(len, groups)) == len(set.union(*groups))
  drawn = redrawing.splits('arrays', config=f'{path},regression', seed=3)
  assert sorted(int(r['row']) for one in drawn.values() for r in one) == sorted(
    seen
  )


def test_a_folder_keeps_numbers_to_the_bit_and_is_prepared_by_the_word(
  tmp_path,
):
  path = write_list(tmp_path / 'a.csv', NUMBERS)
  other = write_list(tmp_path / 'b.csv', WHOLE % 2)
  data_dir = tmp_path / 'prepared'
  found = {
    int(element['row']): element['label']
    for split in own_splits.SPLITS
    for element in clips.opened('folder', None, data_dir, split, str(path))
  }
  assert {type(label.item()) for label in found.values()} == {float}
  np.testing.assert_array_equal([found[i] for i in range(ROWS)], NUMBERS)
  for config, kind in ((f'{other}', int), (f'{other},regression', float)):
    element, *_ = clips.opened('folder', None, data_dir, config=config)
    assert type(element['label'].item()) is kind


@pytest.mark.parametrize(
  ('label', 'word', 'match'),
  [
    (['0.5', 'much'] * 30, True, r"'much'; expected a number|<U4; expected nu"),
    ([0.5, np.inf] * 30, False, r'(row 1|line 3, .*): inf; expected a finite'),
    ([0.5, 2.0] + [np.nan] * 58, False, 'has 2 rows with a target; expected'),
    ([np.nan] * 60, True, 'no label in any row|no row has a number'),
  ],
)
def test_what_does_not_fit_is_told(tmp_path, label, word, match):
  for path in (
    toys.write_columns(tmp_path / 'a.npz', columns(np.array(label))),
    write_list(tmp_path / 'b.csv', label),
  ):
    with pytest.raises(ValueError, match=match) as caught:
      read(f'{path},regression' if word else str(path))
    assert path.name in str(caught.value)


def test_few_groups_and_several_targets_are_told(tmp_path):
  made = columns(NUMBERS, group=np.arange(ROWS) % 2)
  with pytest.raises(ValueError, match='has 2 groups with a target; expected'):
    arrays.read(toys.write_columns(tmp_path / 'a.npz', made))
  made = columns(np.stack([NUMBERS, NUMBERS], 1))
  with pytest.raises(ValueError, match=r'\(60, 2\).* several targets, write'):
    arrays.read(toys.write_columns(tmp_path / 'a.npz', made))
