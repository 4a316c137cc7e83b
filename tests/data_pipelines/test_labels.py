"""Rows without a label: a file that has some is one without these rows."""

import numpy as np
import pytest

from data_pipelines import arrays
from data_pipelines import folders
from data_pipelines import own_splits
from tests.data_pipelines.toys import write_columns as write

ROWS = 40
LABEL = np.arange(ROWS) % 3
LACKS = np.arange(ROWS) % 7 == 3
KEPT = np.flatnonzero(~LACKS)


def columns(label, **others):
  left = np.random.RandomState(0).normal(size=(ROWS, 2))
  left[3] = np.nan  # in a row without a label, so no labelled row lacks it
  right = np.arange(ROWS, dtype=np.uint8)
  group = np.arange(ROWS) // 2
  return {'left': left, 'right': right, 'group': group, 'label': label} | others


def with_gaps(gap, values=LABEL):
  values = values if isinstance(values, list) else values.tolist()
  return [gap if lacks else v for v, lacks in zip(values, LACKS, strict=True)]


WORDS = [f'c{each}' for each in LABEL]
WAYS = {
  'text.npz': columns(np.array(with_gaps('', WORDS))),
  'bytes.npz': columns(np.array(with_gaps('', WORDS), 'S')),
  'blank.npz': columns(np.array(with_gaps('  ', WORDS))),
  'nan.npz': columns(np.array(with_gaps(np.nan))),
  'said.npz': columns(LABEL, label_present=~LACKS),
  'minus_one.npz': columns(np.array(with_gaps(-1)), label_present=~LACKS),
  'null.parquet': columns(with_gaps(None)),
  'null_text.parquet': columns(with_gaps(None, WORDS)),
  'text.parquet': columns(with_gaps('', WORDS)),
  'nan.parquet': columns(with_gaps(np.nan)),
  'both.parquet': columns(
    with_gaps(None)[:20] + LABEL[20:].tolist(), label_present=~LACKS
  ),
}


def assert_like_without(path, whole, names):
  found, expected = arrays.read(path), arrays.read(whole)
  assert (
    found.target.classes == expected.target.classes
    or found.target.classes == tuple(names)
  )
  assert not expected.present and not found.present, path
  for split in own_splits.SPLITS:
    ours, theirs = (arrays.arrays_of(one, split) for one in (path, whole))
    np.testing.assert_array_equal(ours.pop('row'), KEPT[theirs.pop('row')])
    # Groups are numbered over all rows.
    np.testing.assert_array_equal(
      *(
        np.unique(one.pop('group'), return_inverse=True)[1]
        for one in (ours, theirs)
      )
    )
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
      np.testing.assert_array_equal(values, theirs[name], err_msg=f'{path}')


@pytest.mark.parametrize('given', [False, True])
def test_rows_without_a_label_are_left_out_however_they_are_marked(
  tmp_path, given
):
  split = np.array(own_splits.SPLITS)[np.arange(ROWS) // 2 % 3]
  more = {'split': split} if given else {}
  plain = {k: v[KEPT] for k, v in columns(LABEL, **more).items()}
  whole = write(tmp_path / 'whole.npz', plain)
  for name, made in WAYS.items():
    path = write(tmp_path / name, made | more)
    assert_like_without(path, whole, sorted(set(WORDS)))


def test_a_row_without_label_and_modalities_is_left_out(tmp_path):
  made = WAYS['said.npz']
  left = made['left'].copy()
  left[5] = np.nan
  right = ~np.isin(np.arange(ROWS), [3, 6])
  made = made | {'left': left, 'right_present': right}
  table = arrays.read(write(tmp_path / 'mine.npz', made))
  for name, rows in (('left', [3, 5]), ('right', [3, 6])):
    assert np.flatnonzero(~table.present[name]).tolist() == rows


def test_values_of_a_row_without_a_label_are_not_looked_at(tmp_path):
  left = WAYS['said.npz']['left'].copy()
  for row in np.flatnonzero(LACKS)[1], KEPT[9]:
    left[row] = [np.nan, 1]
    path = write(tmp_path / 'mine.npz', WAYS['said.npz'] | {'left': left})
    if LACKS[row]:
      assert not arrays.read(path).present
  with pytest.raises(ValueError, match=f"'left', row {KEPT[9]}, column"):
    arrays.read(path)


def test_of_three_files_one_may_lack_labels(tmp_path):
  made = WAYS['said.npz']
  parts = dict(
    zip(own_splits.SPLITS, np.split(np.arange(ROWS), [20, 30]), strict=True)
  )
  for split, rows in parts.items():
    part = {k: v[rows] for k, v in made.items()}
    if split == 'validation':
      part |= {'label': LABEL[rows]}
      del part['label_present']
    np.savez(tmp_path / f'{split}.npz', **part)
    found = parts[split]
  for split, rows in parts.items():
    expected = rows if split == 'validation' else rows[~LACKS[rows]]
    found = arrays.arrays_of(tmp_path, split)['row']
    np.testing.assert_array_equal(found, expected)


def test_an_empty_cell_of_a_list_leaves_its_row_out(tmp_path, caplog):
  tables = []
  for name, rows in (('gaps', range(ROWS)), ('whole', KEPT)):
    cells = with_gaps('', WORDS)
    lines = [f'word {i},{i // 2},{cells[i]}' for i in rows]
    path = tmp_path / f'{name}.csv'
    path.write_text('\n'.join(['note,group,label', *lines]))
    tables.append(folders.read(path))
  gaps, whole = tables
  assert gaps.target.classes == whole.target.classes
  assert (
    np.flatnonzero(gaps.split == '').tolist() == np.flatnonzero(LACKS).tolist()
  )
  np.testing.assert_array_equal(gaps.split[KEPT], whole.split)
  np.testing.assert_array_equal(gaps.target.label[KEPT], whole.target.label)
  (said,) = caplog.messages
  assert 'gaps.csv: 6 of 40 rows have no label, the first is' in said
  assert 'line 5;' in said


def test_a_log_line_counts_them_once(tmp_path, caplog):
  path = write(tmp_path / 'mine.npz', WAYS['said.npz'])
  for split in own_splits.SPLITS * 2:
    arrays.arrays_of(path, split)
  arrays._read.cache_clear()
  arrays.read(path)
  (said,) = caplog.messages
  assert 'mine.npz: 6 of 40 rows have no label, the first is row 3;' in said


def test_an_ambiguous_minus_one_or_nan_is_refused_unless_the_file_decides(
  tmp_path,
):
  signs = columns(LABEL - 1)
  with pytest.raises(ValueError, match=r"-1 beside 0, 1: .*label_present'"):
    arrays.read(write(tmp_path / 'asked.npz', signs))
  said = signs | {'label_present': np.ones(ROWS, bool)}
  for name, made, classes in (
    ('said', said, (-1, 0, 1)),
    ('below', columns(LABEL - 2), (-2, -1, 0)),
    ('gaps', columns(np.array(with_gaps(np.nan, LABEL - 1))), (-1, 0, 1)),
  ):
    table = arrays.read(write(tmp_path / f'{name}.npz', made))
    assert table.target.classes == classes, name
  texts = np.array([*'ab', np.nan, 'b'] * 10)
  assert texts[2] == 'nan'
  with pytest.raises(ValueError, match=r"the text 'nan': .*label_present'"):
    arrays.read(write(tmp_path / 'text.npz', columns(texts)))
  made = columns(texts, label_present=texts != 'nan')
  table = arrays.read(write(tmp_path / 'said.npz', made))
  assert table.target.classes == ('a', 'b')
  lines = [f'word,{each}' for each in with_gaps('', LABEL - 1)]
  (tmp_path / 'list.csv').write_text('\n'.join(['note,label', *lines]))
  assert folders.read(tmp_path).target.classes == ('-1', '0', '1')


@pytest.mark.parametrize(
  ('made', 'match'),
  [
    (columns(np.full(ROWS, np.nan)), 'no label in any row'),
    (columns(LABEL, label_present=LABEL), "'label_present' .*rows. bool"),
    (columns(np.array(with_gaps(np.inf))), 'row 3: inf; expected a finite'),
    (
      columns(LABEL, left=np.where(LACKS, 1.0, np.nan), label_present=~LACKS),
      "'left' .*missing in all rows",
    ),
    (
      columns(
        LABEL,
        split=np.where(LACKS, 'test', np.where(LABEL, 'train', 'validation')),
        label_present=~LACKS,
      )
      | {'group': np.arange(ROWS)},
      r"\['train', 'validation'\]; expected rows of each .*, with a label",
    ),
  ],
)
def test_errors_name_what_does_not_fit(tmp_path, made, match):
  with pytest.raises(ValueError, match=match) as caught:
    arrays.read(write(tmp_path / 'mine.npz', made))
  assert 'mine.npz' in str(caught.value)
