"""Rows of a user's own arrays: one file, no builder."""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines import labels
from data_pipelines import own_splits
from data_pipelines import targets
from data_pipelines.reading import parquet_columns

NAME = 'arrays'
TREE = """\
  FILE.npz      an array [rows, ...] for each modality, and label [rows]:
                classes (whole numbers or texts), or numbers (whole ones with
                the word regression). Optional, all [rows]:
                split           train, validation or test
                group           rows that must be in one split
                NAME_length     the length of a padded sequence
                NAME_present    False if a row lacks the modality; a row that
                                is NaN lacks it, too
                label_present   False if a row has no label, and is left out;
                                so is one whose label is NaN or an empty text
  FILE.parquet  the same as columns: lists of equal lengths, or numbers called
                MODALITY.FEATURE
  FOLDER        train, validation and test, .npz or .parquet, without split"""

NO_MODALITIES = ('label', 'label_present', 'split', 'group', 'row')


class Table(NamedTuple):
  """All rows of a file.

  Attributes:
    modalities: Name -> [rows, ...], float32, or uint8 as it was.
    lengths: `NAME_length` of a sequence -> [rows] int32, where they are given.
    present: Name -> [rows] bool, of modalities that some rows lack, by
      `NAME_present` or all NaN; their values there are 0.
    target: Of each row.
    split: [rows] of `own_splits.SPLITS`, or '' of rows without a label.
    group: [rows] int64, or None.
  """

  modalities: dict[str, npt.NDArray[Any]]
  lengths: dict[str, npt.NDArray[np.int32]]
  present: dict[str, npt.NDArray[np.bool_]]
  target: targets.Targets
  split: npt.NDArray[np.str_]
  group: npt.NDArray[np.int64] | None


def read(path: str | os.PathLike[str]) -> Table:
  """Reads a file, or a folder of three.

  Without `split`, of each class 60, 20 and 20 % of the rows are to train, for
  validation and to test, no group in two of them, by a fixed seed; of all rows,
  where labels are numbers. Pictures without an axis of channels, [rows, height,
  width] uint8, get one. Rows without a label are in no split.

  Args:
    path: As `TREE` says; with `,regression` behind it, whole numbers are no
      classes.

  Returns:
    The rows. It is read once, and again when it has changed.

  Raises:
    FileNotFoundError: if there is no such file, or a part of a folder missing.
    ModuleNotFoundError: if it is Parquet and pyarrow is not installed.
    ValueError: if arrays do not fit; the message names the array and the row,
      counted from 0.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'mine.npz')
    ...   label = np.repeat(['cat', 'dog'], 10)
    ...   np.savez(path, left=np.ones((20, 3)), label=label)
    ...   table = read(path)
    >>> table.target.classes, table.modalities['left'].shape
    (('cat', 'dog'), (20, 3))
  """
  where, regression = targets.told(path)
  files = list(_parts(where).values()) if where.is_dir() else [where]
  if missing := [str(file) for file in files if not file.is_file()]:
    raise FileNotFoundError(
      f'There is no {" and no ".join(missing)}. Expected:\n{TREE}'
    )
  changed = tuple(file.stat().st_mtime_ns for file in files)
  return _read(where, changed, regression)


def _parts(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """The file of each split: Parquet where there is one, and no npz."""
  found = {}
  for split in own_splits.SPLITS:
    paths = [folder / f'{split}{suffix}' for suffix in ('.npz', '.parquet')]
    found[split] = next((p for p in paths if p.is_file()), paths[0])
  return found


@functools.lru_cache(maxsize=2)
def _read(path: pathlib.Path, _: tuple[int, ...], regression: bool) -> Table:
  if not path.is_dir():
    return _table(path, _columns(path), regression)
  files = _parts(path)
  parts = {split: _columns(file) for split, file in files.items()}
  if any('label_present' in columns for columns in parts.values()):
    for columns in parts.values():
      everywhere = np.ones(len(columns['label']), bool)
      columns.setdefault('label_present', everywhere)
  names = parts['train'].keys()
  for split, columns in parts.items():
    if columns.keys() != names or 'split' in names:
      raise ValueError(
        f'{files[split]} has {sorted(columns)}; expected the arrays of'
        f' {files["train"].name}, {sorted(names)}, and no split.'
      )
    for name in names:
      theirs, ours = parts['train'][name].shape[1:], columns[name].shape[1:]
      if ours != theirs:
        raise ValueError(
          f'{name!r} has rows of shape {ours} in {files[split]}, and of'
          f' {theirs} in {files["train"].name}; expected one shape.'
        )
  joined = {
    name: np.concatenate([columns[name] for columns in parts.values()])
    for name in names
  }
  sizes = [len(columns['label']) for columns in parts.values()]
  joined['split'] = np.repeat(own_splits.SPLITS, sizes)
  return _table(path, joined, regression)


def load(path: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
  """The arrays of an npz file, or the columns of a Parquet file, by name.

  Raises:
    FileNotFoundError: if there is no file.
    ModuleNotFoundError: if it is Parquet and pyarrow is not installed.
    ValueError: if it is a folder, of another kind, or has arrays of objects.
  """
  if path.is_dir():
    raise ValueError(f'{path} is a folder; give one of its files.')
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {path}. Expected:\n{TREE}')
  if path.suffix.lower() == '.parquet':
    return parquet_columns.read(path)
  try:
    with np.load(path, allow_pickle=False) as archive:
      return dict(archive)
  except Exception as error:
    raise ValueError(
      f'{path} is no npz file, or has arrays of objects: {error}.'
      f' Expected:\n{TREE}'
    ) from error


def _columns(path: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
  """Name -> array, each with as many rows as there are labels."""
  columns = load(path)
  if 'label' not in columns:
    raise ValueError(
      f"{path} has {sorted(columns)}, and no 'label'. Expected:\n{TREE}"
    )
  rows = columns['label'].shape
  if len(rows) != 1:
    raise ValueError(
      f"'label' of {path} has the shape {rows}; expected [rows], a class or a"
      ' number each. For several targets, write a builder.'
    )
  for name, values in columns.items():
    if values.shape[:1] != rows or not values.size:
      raise ValueError(
        f'{name!r} of {path} has the shape {values.shape}; expected one entry'
        f' for each of the labels, whose shape is {rows}.'
      )
    if name in ('split', 'group') and values.ndim != 1:
      raise ValueError(
        f'{name!r} of {path} has the shape {values.shape}; expected {rows}.'
      )
  return columns


def _table(
  path: pathlib.Path,
  columns: Mapping[str, npt.NDArray[Any]],
  regression: bool,
) -> Table:
  labelled = columns.get('label_present')
  if labelled is not None:
    labelled = _present(path, 'label_present', labelled)
  target = targets.of_array(
    str(path), columns['label'], labelled, regression=regression
  )
  labelled = target.is_there
  labels.tell(str(path), labelled)
  named = {n: v for n, v in columns.items() if n not in NO_MODALITIES}
  lengths = {
    name: _length(path, name, values, named[name.removesuffix('_length')])
    for name, values in named.items()
    if name.endswith('_length') and name.removesuffix('_length') in named
  }
  said = {
    name: _present(path, name, values)
    for name, values in named.items()
    if name.endswith('_present') and name.removesuffix('_present') in named
  }
  present = {name.removesuffix('_present'): rows for name, rows in said.items()}
  modalities = {
    name: _modality(path, name, values, present)
    for name, values in named.items()
    if name not in lengths and name not in said
  }
  if not modalities:
    raise ValueError(
      f'{path} has {sorted(columns)}, and no modality. Expected:\n{TREE}'
    )
  split, group = own_splits.of_rows(
    str(path), target, columns.get('split'), columns.get('group')
  )
  for name, rows in list(present.items()):
    if not rows[split == 'train'].any():
      raise ValueError(f'{name!r} of {path} is missing in all rows of train.')
    if rows[labelled].all() and f'{name}_present' not in said:
      del present[name]
  if present.keys() == modalities.keys():
    without = labelled & ~np.any(list(present.values()), axis=0)
    if without.any():
      raise ValueError(
        f'{path}, row {np.argmax(without)}: no modality is there. Leave the row'
        ' out.'
      )
  return Table(modalities, lengths, present, target, split, group)


def _length(
  path: pathlib.Path,
  name: str,
  values: npt.NDArray[Any],
  sequence: npt.NDArray[Any],
) -> npt.NDArray[np.int32]:
  most = sequence.shape[1] if sequence.ndim > 1 else 1
  expected = (
    f'expected [rows] whole numbers from 0 to {most}, how many entries of'
    f' {name.removesuffix("_length")!r} are real, or another name.'
  )
  if values.ndim != 1 or values.dtype.kind not in 'iuf':
    raise ValueError(
      f'{name!r} of {path} is {values.dtype}{list(values.shape)}; {expected}'
    )
  wrong = ~((values >= 0) & (values <= most) & (values == np.round(values)))
  if wrong.any():
    row = np.argmax(wrong)
    raise ValueError(
      f'{name!r} of {path}, row {row}: {values[row]}; {expected}'
    )
  return values.astype(np.int32)


def _present(
  path: pathlib.Path, name: str, values: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
  if values.ndim != 1 or not set(np.unique(values).tolist()) <= {0, 1}:
    raise ValueError(
      f'{name!r} of {path} is {values.dtype}{list(values.shape)}; expected'
      f' [rows] bool, which have {name.removesuffix("_present")!r}, or another'
      ' name.'
    )
  return values.astype(bool)


def _modality(
  path: pathlib.Path,
  name: str,
  values: npt.NDArray[Any],
  present: dict[str, npt.NDArray[np.bool_]],
) -> npt.NDArray[Any]:
  """The values, 0 where rows lack it, of which `present` is told."""
  if values.dtype.kind not in 'biuf':
    raise ValueError(
      f'{name!r} of {path} is {values.dtype}; expected numbers, or one of the'
      f' names {NO_MODALITIES}. Texts belong in the CSV of a folder.'
    )
  if values.ndim == 1:
    values = values[:, None]
  if values.dtype == np.uint8 and values.ndim == 3:
    values = values[..., None]
  lacks = ~present.get(name, np.ones(len(values), bool))
  if values.dtype != np.uint8:
    with np.errstate(over='ignore'):
      values = values.astype(np.float32)
    lacks |= np.isnan(values.reshape(len(values), -1)).all(axis=1)
  if lacks.any():
    present[name] = ~lacks
    values = np.where(lacks.reshape(-1, *[1] * (values.ndim - 1)), 0, values)
  if values.dtype != np.uint8:
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
      row, *column = bad[0].tolist()
      raise ValueError(
        f'{name!r} of {path}, row {row}, column {tuple(column)}: the value is'
        ' not finite, in float32. Expected finite numbers; leave the row out,'
        ' or make all of it NaN, if it lacks the modality.'
      )
  return values


def arrays_of(
  path: str | os.PathLike[str], split: str
) -> dict[str, npt.NDArray[Any]]:
  """The entries of a split.

  Returns:
    Name -> [rows of the split, ...]: modalities, lengths, `NAME_present` bool
    of those that rows lack, `label`, `row` int32, the place in the file, and
    `group`, where it is given.

  Raises:
    ValueError: if there is no such split.
  """
  if split not in own_splits.SPLITS:
    known = ', '.join(own_splits.SPLITS)
    raise ValueError(f'No split {split!r}. Available: {known}.')
  table = read(path)
  entries: dict[str, npt.NDArray[Any]] = {
    **table.modalities,
    **table.lengths,
    **{f'{name}_present': rows for name, rows in table.present.items()},
    'label': table.target.label,
    **({} if table.group is None else {'group': table.group}),
  }
  rows = np.flatnonzero(table.split == split)
  taken = {name: values[rows] for name, values in entries.items()}
  return taken | {'row': rows.astype(np.int32)}
