"""A user's own file of arrays: splits, shapes, and what is refused."""

import sys

import numpy as np
import pytest

from data_pipelines import arrays
from data_pipelines import own_splits
from data_pipelines import sources
from tests.data_pipelines import toys

ROWS = 60


def columns(**changed):
  """Makes arrays of a vector, a sequence and a picture; None leaves one out."""
  random = np.random.RandomState(0)
  label = np.arange(ROWS) % 3
  made = {
    'left': random.normal(size=(ROWS, 4)),
    'scalar': random.randint(0, 9, ROWS),
    'steps': random.normal(size=(ROWS, 5, 2)).astype(np.float32),
    'steps_length': random.randint(1, 6, ROWS),
    'photo': random.randint(0, 256, (ROWS, 8, 8)).astype(np.uint8),
    'label': np.array(['cat', 'bee', 'ant'])[label],
    **changed,
  }
  return {name: values for name, values in made.items() if values is not None}


@pytest.fixture
def file(tmp_path):
  def write(**changed):
    np.savez(tmp_path / 'mine.npz', **columns(**changed))
    return tmp_path / 'mine.npz'

  return write


def test_every_row_is_in_one_split_with_all_its_entries(file):
  path, whole = file(), columns()
  seen = []
  for split in own_splits.SPLITS:
    source = sources.open_source('arrays', config=str(path), split=split)
    rows = source.arrays['row']
    seen += rows.tolist()
    for name in ('left', 'steps'):
      assert source.arrays[name].dtype == np.float32
      np.testing.assert_array_equal(
        source.arrays[name], whole[name][rows].astype(np.float32)
      )
    np.testing.assert_array_equal(
      source.arrays['scalar'][:, 0], whole['scalar'][rows]
    )
    np.testing.assert_array_equal(
      source.arrays['steps_length'], whole['steps_length'][rows]
    )
    assert source.arrays['photo'].dtype == np.uint8
    np.testing.assert_array_equal(
      source.arrays['photo'][..., 0], whole['photo'][rows]
    )
    names = np.array(['ant', 'bee', 'cat'])[source.arrays['label']]
    np.testing.assert_array_equal(names, whole['label'][rows])
    counts = np.bincount(source.arrays['label'])
    assert set(counts) == {12 if split == 'train' else 4}
  assert sorted(seen) == list(range(ROWS))


def test_a_split_in_the_file_is_used(file):
  split = np.repeat(own_splits.SPLITS, [30, 10, 20])
  found = arrays.arrays_of(file(split=split), 'validation')
  assert found['row'].tolist() == list(range(30, 40))
  assert 'split' not in found and 'group' not in found


def test_no_group_is_divided(file):
  path = file(group=np.arange(ROWS) // 6 * 7)
  groups = [set(arrays.arrays_of(path, s)['group']) for s in own_splits.SPLITS]
  assert sum(map(len, groups)) == len(set.union(*groups)) == 10


def test_rows_lack_what_is_nan_or_said_to_be_absent(file):
  left, there = columns()['left'].copy(), np.arange(ROWS) % 7 != 2
  left[2], left[4] = [1, np.inf, 2, 3], np.nan
  steps = columns()['steps'].copy()
  steps[9] = np.nan
  photo_there = (np.arange(ROWS) != 5).astype(int)
  path = file(
    left=left, left_present=there, photo_present=photo_there, steps=steps
  )
  table = arrays.read(path)
  assert table.modalities.keys() == {'left', 'scalar', 'steps', 'photo'}
  expected = there & (np.arange(ROWS) != 4)
  np.testing.assert_array_equal(table.present['left'], expected)
  assert np.flatnonzero(~table.present['photo']).tolist() == [5]
  assert np.flatnonzero(~table.present['steps']).tolist() == [9]
  assert table.present.keys() == {'left', 'photo', 'steps'}
  assert not table.modalities['left'][~expected].any()
  assert table.modalities['photo'].dtype == np.uint8
  assert not table.modalities['photo'][5].any()
  np.testing.assert_array_equal(
    table.modalities['photo'][4, ..., 0], columns()['photo'][4]
  )
  for split in own_splits.SPLITS:
    found = arrays.arrays_of(path, split)
    np.testing.assert_array_equal(found['left_present'], expected[found['row']])
  with pytest.raises(ValueError, match=r"npz: 'left_present' is float64\[60\]"):
    arrays.read(file(left_present=there / 2))


def test_a_row_or_modality_that_is_missing_entirely_is_refused(file):
  left = columns()['left'].copy()
  left[5] = np.nan
  only = dict.fromkeys(('scalar', 'steps', 'steps_length', 'photo'))
  with pytest.raises(ValueError, match='row 5: no modality is there'):
    arrays.read(file(left=left, **only))
  with pytest.raises(
    ValueError, match=r"mine\.npz: 'left' is missing in all rows"
  ):
    arrays.read(file(left=np.full((ROWS, 4), np.nan)))
  left[:40] = np.nan
  split = np.repeat(own_splits.SPLITS, [40, 10, 10])
  with pytest.raises(ValueError, match=r'is missing in all rows of train'):
    arrays.read(file(left=left, split=split))


@pytest.mark.parametrize('suffix', ['npz', 'parquet'])
def test_a_folder_of_three_files_is_one_table(tmp_path, suffix):
  made = columns(scalar=None, steps_length=None, photo=None)
  for split, rows in zip(
    own_splits.SPLITS, np.split(np.arange(ROWS), [40, 50]), strict=True
  ):
    part = {name: values[rows] for name, values in made.items()}
    path = toys.write_columns(tmp_path / f'{split}.{suffix}', part)
  found = arrays.arrays_of(tmp_path, 'test')
  np.testing.assert_allclose(found['left'], made['left'][50:], rtol=1e-6)
  np.testing.assert_array_equal(found['steps'], made['steps'][50:])
  toys.write_columns(path, part | {'left': part['left'][:, :3]})
  with pytest.raises(
    ValueError, match=rf"{path} .*'left': \(3,\).*'left': \(4,\)"
  ):
    arrays.read(tmp_path)
  del part['left']
  toys.write_columns(path, part)
  with pytest.raises(
    ValueError, match=rf"{path} has .*expected those of .*'left'"
  ):
    arrays.read(tmp_path)
  (tmp_path / f'validation.{suffix}').unlink()
  with pytest.raises(FileNotFoundError, match=r'no .*validation\.npz'):
    arrays.read(tmp_path)


def test_a_file_that_has_changed_is_read_again(file):
  assert arrays.read(file()).modalities['left'].shape == (ROWS, 4)
  assert arrays.read(file(left=np.ones((ROWS, 2)))).modalities[
    'left'
  ].shape == (ROWS, 2)


def spoiled(value):
  left = columns()['left'].copy()
  left[7, 2] = value
  return left


def lengths(value):
  return np.where(np.arange(ROWS) == 9, value, 3.0)


@pytest.mark.parametrize(
  ('changed', 'match'),
  [
    ({'label': None}, "no 'label'"),
    ({'label': np.arange(ROWS) * 1j}, "'label'.*complex128; expected numb"),
    ({'label': np.zeros((ROWS, 1), int)}, r"'label'.*\(60, 1\)"),
    ({'left': spoiled(np.nan)}, r"'left'.*row 7, column \(2,\).*finite"),
    ({'left': spoiled(1e39)}, r"'left'.*row 7, column \(2,\)"),
    ({'left': np.ones((ROWS - 1, 4))}, r"'left'.*\(59, 4\).*\(60,\)"),
    ({'left': np.ones((ROWS, 0))}, r"'left'.*\(60, 0\)"),
    ({'left': np.array(['x'] * ROWS)}, r"'left'.*<U1; expected numbers"),
    (
      {'left': np.array([{}] * ROWS, object)},
      'no npz file, or has arrays of objects',
    ),
    ({'split': np.repeat(['train', 'dev'], 30)}, r"'dev'.*row 30 has 'dev'"),
    ({'split': np.repeat(['train', 'test'], 30)}, "'split' .*each of"),
    ({'Group': np.arange(ROWS)}, "it has 'Group'; write 'group'"),
    ({'group': np.zeros((ROWS, 2), int)}, r"'group'.*\(60, 2\); .*\(60,\)"),
    ({'split': np.full((ROWS, 1), 'train')}, r"'split'.*\(60, 1\); .*\(60,\)"),
    ({'group': lengths(np.nan)}, r"'group'.*row 9: NaN; expected the group"),
    ({'group': np.zeros(ROWS)}, r"no row of .*groups: \{'ant': 1,"),
    ({'steps_length': lengths(6)}, r"'steps_length'.*row 9: 6\.0; .*0 to 5"),
    ({'steps_length': lengths(-1)}, r"'steps_length'.*row 9: -1\.0"),
    ({'steps_length': lengths(2.5)}, r"'steps_length'.*row 9: 2\.5; .*whole"),
    ({'steps_length': lengths(np.nan)}, r"'steps_length'.*row 9: nan"),
    ({'steps_length': np.ones((ROWS, 2), int)}, r"'steps_length'.*\[60, 2\]"),
    ({'scalar_length': np.full(ROWS, 7)}, 'row 0: 7; .*or another name'),
    (
      {
        'split': np.tile(own_splits.SPLITS, ROWS // 3),
        'group': np.arange(ROWS) // 30 + 5,
      },
      r'divides the group of row 0, 5;',
    ),
    (
      {
        **dict.fromkeys(('left', 'scalar', 'steps', 'photo')),
        'steps_length': None,
      },
      'no modality',
    ),
  ],
)
def test_errors_name_what_does_not_fit(file, changed, match):
  with pytest.raises(ValueError, match=match) as caught:
    arrays.read(file(**changed))
  assert 'mine.npz' in str(caught.value)


def test_errors_list_the_expected_names(file, tmp_path):
  with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
    arrays.arrays_of(file(), 'dev')
  with pytest.raises(FileNotFoundError, match=r'absent.npz.*Expected'):
    arrays.read(tmp_path / 'absent.npz')
  (tmp_path / 'text.npz').write_text('left,right')
  with pytest.raises(ValueError, match='is no npz file'):
    arrays.read(tmp_path / 'text.npz')


def parquet(path, **changed):
  made = columns()
  table = {
    'left.a': made['left'][:, 0],
    'left.b': made['left'][:, 1],
    'steps': made['steps'],
    'label': made['label'],
  }
  return toys.write_columns(path, table | changed)


def test_parquet_has_modalities_as_lists_or_as_columns(tmp_path):
  table = arrays.read(parquet(tmp_path / 'mine.PARQUET'))
  made = columns()
  np.testing.assert_allclose(
    table.modalities['left'], made['left'][:, :2], rtol=1e-6
  )
  np.testing.assert_array_equal(table.modalities['steps'], made['steps'])
  assert table.target.classes == ('ant', 'bee', 'cat')


def test_features_in_parquet_are_known_by_their_names(tmp_path):
  made = columns()
  right_to_left = {
    'left.b': made['left'][:, 1],
    'label': made['label'],
    'left.a': made['left'][:, 0],
  }
  toys.write_columns(tmp_path / 'mine.parquet', right_to_left)
  np.testing.assert_allclose(
    arrays.read(tmp_path / 'mine.parquet').modalities['left'],
    made['left'][:, :2],
    rtol=1e-6,
  )


def test_the_index_that_pandas_writes_is_no_modality(tmp_path):
  index = {'__index_level_0__': list(range(ROWS))}  # of a selection of rows
  table = arrays.read(parquet(tmp_path / 'mine.parquet', **index))
  assert set(table.modalities) == {'left', 'steps'}


def test_a_row_that_is_null_in_parquet_lacks_the_modality(tmp_path):
  def without(values):
    return [None if row in (3, 8) else v for row, v in enumerate(values)]

  made = columns()
  given = {
    'left.a': without(made['left'][:, 0].tolist()),
    'left.b': without(made['scalar'].tolist()),
    'steps': without(made['steps'].tolist()),
    'other': made['scalar'],
  }
  table = arrays.read(parquet(tmp_path / 'mine.parquet', **given))
  for name, expected in (
    ('left', np.stack([made['left'][:, 0], made['scalar']], 1)),
    ('steps', made['steps']),
  ):
    assert np.flatnonzero(~table.present[name]).tolist() == [3, 8]
    expected[[3, 8]] = 0
    np.testing.assert_allclose(table.modalities[name], expected, rtol=1e-6)


def test_errors_name_columns_of_parquet_that_do_not_fit(tmp_path):
  def spoiled(place, wrong, right):
    return [*[right] * place, wrong, *[right] * (ROWS - place - 1)]

  square = [[1.0, 2.0], [3.0, 4.0]]
  for name, values, match in (
    ('steps', spoiled(5, [3.0], [1.0, 2.0]), r'row 5, .*\(1,\).*\(2,\)'),
    ('steps', spoiled(5, [[1.0, 2.0], [3.0]], square), 'row 5, .*without gaps'),
    ('steps', spoiled(8, [1.0, None], [1.0, 2.0]), r'row 8, .*\[1\.0, None\]'),
    ('left.b', spoiled(9, None, 1.0), r'row 9, column \(1,\).*not finite'),
    ('group', spoiled(9, None, 'us'), 'row 9, .*no value'),
    ('note', [None] * ROWS, 'row 0, .*no value'),
    ('photo', [{'bytes': b'x'}] * ROWS, 'row 0, .*a folder with a CSV'),
    ('left', np.ones(ROWS), r"FEATURE'.*and the columns \['left'\]"),
    ('left.b', [[1.0, 2.0]] * ROWS, r"FEATURE'.*\(60,\), \(60, 2\)"),
  ):
    with pytest.raises(ValueError, match=match) as caught:
      arrays.read(parquet(tmp_path / 'mine.parquet', **{name: values}))
    assert f"'{name.removesuffix('.b')}" in str(caught.value)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
  path = parquet(tmp_path / 'mine.parquet')
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ModuleNotFoundError, match='pip install pyarrow'):
    arrays.read(path)
