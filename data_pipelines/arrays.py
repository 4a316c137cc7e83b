"""Rows of a user's own arrays: one file, no builder."""

import functools
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines import own_splits
from data_pipelines import targets
from data_pipelines.reading import lists
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
  """Reads a file, or a folder of three; again when it has changed.

  Splits that are not given are drawn; see `own_splits.of_rows`. Pictures
  without an axis of channels, [rows, height, width] uint8, get one.

  Args:
    path: As `TREE` says; with `,regression` behind it, whole numbers are no
      classes.

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
  where, regression = targets.parsed(path)
  files = [where]
  if where.is_dir():
    files = [_of_split(where, split) for split in own_splits.SPLITS]
  changed = [file.is_file() and file.stat().st_mtime_ns for file in files]
  return _read(where, tuple(files), tuple(changed), regression)


def _of_split(folder: pathlib.Path, split: str) -> pathlib.Path:
  """The file of a split: Parquet where there is one, and no npz."""
  file, other = (folder / f'{split}{end}' for end in ('.npz', '.parquet'))
  return other if other.is_file() and not file.is_file() else file


@functools.lru_cache(maxsize=2)
def _read(
  path: pathlib.Path,
  files: tuple[pathlib.Path, ...],
  _: tuple[int, ...],
  regression: bool,
) -> Table:
  parts = []
  for file in files:
    columns = load(file)
    with lists.at(str(file)):
      _check_shapes(columns)
    parts.append(columns)
  joined = parts[0] if len(parts) == 1 else _joined(files, parts)
  with lists.at(str(path)):
    return _table(path, joined, regression)


def _joined(
  files: Sequence[pathlib.Path], parts: Sequence[dict[str, npt.NDArray[Any]]]
) -> dict[str, npt.NDArray[Any]]:
  """The arrays of three files, and the split of each row."""
  if any('label_present' in columns for columns in parts):
    for columns in parts:
      everywhere = np.ones(len(columns['label']), bool)
      columns.setdefault('label_present', everywhere)
  shapes = [{n: v.shape[1:] for n, v in columns.items()} for columns in parts]
  for file, own in zip(files, shapes, strict=True):
    if own != shapes[0] or 'split' in own:
      raise ValueError(
        f'{file} has rows of the shapes {own}; expected those of'
        f' {files[0].name}, {shapes[0]}, and no split.'
      )
  joined = {
    name: np.concatenate([columns[name] for columns in parts])
    for name in shapes[0]
  }
  sizes = [len(columns['label']) for columns in parts]
  return joined | {'split': np.repeat(own_splits.SPLITS, sizes)}


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
      f'{path} is no npz file, or has arrays of objects, as pandas makes of'
      f' texts (.astype(str) makes texts of them): {error}. Expected:\n{TREE}'
    ) from error


def check_names(names: Iterable[str]) -> None:
  """Refuses names such as 'Split', which would silently be modalities."""
  for name in names:
    meant = name.lower()
    if name != meant and meant in NO_MODALITIES:
      raise ValueError(
        f'it has {name!r}; write {meant!r} if that is meant, or rename it.'
      )


def _check_shapes(columns: Mapping[str, npt.NDArray[Any]]) -> None:
  """Refuses arrays that do not have as many rows as there are labels."""
  check_names(columns)
  if 'label' not in columns:
    raise ValueError(
      f"it has {sorted(columns)}, and no 'label'. Expected:\n{TREE}"
    )
  rows = columns['label'].shape
  if len(rows) != 1:
    raise ValueError(
      f"'label' has the shape {rows}; expected [rows], a class or a number"
      ' each. For several targets, write a builder.'
    )
  for name, values in columns.items():
    axes = 1 if name in ('split', 'group') else values.ndim
    if values.shape[:1] != rows or values.ndim != axes or not values.size:
      raise ValueError(
        f'{name!r} has the shape {values.shape}; expected one entry for each of'
        f' the labels, whose shape is {rows}.'
      )


def _table(
  path: pathlib.Path,
  columns: Mapping[str, npt.NDArray[Any]],
  regression: bool,
) -> Table:
  told = columns.get('label_present')
  if told is not None:
    told = _present('label_present', told)
  target = targets.of_array(columns['label'], told, regression=regression)
  targets.tell(str(path), target.is_there)
  named = {n: v for n, v in columns.items() if n not in NO_MODALITIES}
  lengths = {
    name: _length(name, named[name], named[owner])
    for name, owner in _owned(named, '_length').items()
  }
  said = _owned(named, '_present')
  has = {owner: _present(name, named[name]) for name, owner in said.items()}
  modalities = {}
  for name, values in named.items():
    if name not in lengths and name not in said:
      has.setdefault(name, np.ones(len(values), bool))
      modalities[name], has[name] = _modality(
        name, values, has[name], target.is_there
      )
  if not modalities:
    raise ValueError(
      f'it has {sorted(columns)}, and no modality. Expected:\n{TREE}'
    )
  split, group = own_splits.of_rows(
    target, columns.get('split'), columns.get('group')
  )
  lacking = own_splits.lacking(has, target, split)
  present = {
    name: rows
    for name, rows in has.items()
    if name in lacking or name in said.values()
  }
  return Table(modalities, lengths, present, target, split, group)


def _owned(named: Collection[str], end: str) -> dict[str, str]:
  """Name that ends so -> the name of what it says something about."""
  owners = {name: name.removesuffix(end) for name in named}
  return {n: o for n, o in owners.items() if n != o and o in named}


def _length(
  name: str, values: npt.NDArray[Any], sequence: npt.NDArray[Any]
) -> npt.NDArray[np.int32]:
  most = sequence.shape[1] if sequence.ndim > 1 else 1
  expected = (
    f'expected [rows] whole numbers from 0 to {most}, how many entries of'
    f' {name.removesuffix("_length")!r} are real, or another name.'
  )
  if values.ndim != 1 or values.dtype.kind not in 'iuf':
    raise ValueError(
      f'{name!r} is {values.dtype}{list(values.shape)}; {expected}'
    )
  wrong = ~((values >= 0) & (values <= most) & (values == np.round(values)))
  if wrong.any():
    row = np.argmax(wrong)
    raise ValueError(f'{name!r}, row {row}: {values[row]}; {expected}')
  return values.astype(np.int32)


def _present(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
  if values.ndim != 1 or not set(np.unique(values).tolist()) <= {0, 1}:
    raise ValueError(
      f'{name!r} is {values.dtype}{list(values.shape)}; expected [rows] bool,'
      f' which have {name.removesuffix("_present")!r}, or another name.'
    )
  return values.astype(bool)


def _modality(
  name: str,
  values: npt.NDArray[Any],
  has: npt.NDArray[np.bool_],
  labelled: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
  """The values, 0 where rows lack them, and which rows have them."""
  if values.dtype.kind not in 'biuf':
    raise ValueError(
      f'{name!r} is {values.dtype}; expected numbers, or one of the names'
      f' {NO_MODALITIES}. Texts belong in the CSV of a folder.'
    )
  if values.ndim == 1:
    values = values[:, None]
  if values.dtype == np.uint8 and values.ndim == 3:
    values = values[..., None]
  if values.dtype != np.uint8:
    with np.errstate(over='ignore'):
      values = values.astype(np.float32)
    has = has & ~np.isnan(values.reshape(len(values), -1)).all(axis=1)
  if not has.all():
    values = np.where(has.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
  if values.dtype != np.uint8:
    bad = np.argwhere(~np.isfinite(values))
    bad = bad[labelled[bad[:, 0]]]
    if bad.size:
      row, *column = bad[0].tolist()
      raise ValueError(
        f'{name!r}, row {row}, column {tuple(column)}: the value is not finite,'
        ' in float32. Expected finite numbers; leave the row out, or make all'
        ' of it NaN, if it lacks the modality.'
      )
  return values, has


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
