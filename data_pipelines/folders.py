"""A user's own files, texts and numbers: a folder and a CSV, no builder.

What is here knows the CSV; `reading.folder_builder` reads the files.
"""

import functools
import math
import os
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines import arrays
from data_pipelines import own_splits
from data_pipelines import targets
from data_pipelines.reading import lists

NAME = 'folder'
SUFFIXES = {
  'picture': ('.jpg', '.jpeg', '.png', '.webp'),
  'sound': ('.wav', '.flac', '.ogg', '.mp3', '.m4a', '.aiff', '.aif'),
  'video': (
    *('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi', '.flv', '.mpg', '.mpeg'),
  ),
}
"""Kind of a file -> how its name ends."""

NUMBERS = 'numbers'
"""The modality of all columns of numbers whose names have no dot."""

# Of a video in such a column the sound is meant.
_HEARD = ('audio', 'sound')
TREE = f"""\
  FOLDER/NAME.csv   the only CSV there (of several, give the path of one). Its
                    first line names the columns: label, and one for each
                    modality, of texts or of files, such as
                      photo,caption,label
                      cats/1.jpg,"A cat, asleep.",cat
                    A label is a class or a number (a whole number with the word
                    regression); a row whose label is empty is left out. Columns
                    of numbers are together one modality, called numbers, or one
                    for each MODALITY if they are called MODALITY.FEATURE. Where
                    a modality's cells are empty, the row lacks it. Optional:
                    split (train, validation or test), and group (of rows that
                    must be in one split)
  FOLDER/...        the files, at these paths in the folder: pictures
                    ({', '.join(SUFFIXES['picture'])}), sounds
                    ({', '.join(SUFFIXES['sound'])}) or videos
                    ({', '.join(SUFFIXES['video'][:5])}, ...). In a column
                    called audio, the sound of videos is used"""


class Table(NamedTuple):
  """What a CSV says.

  Attributes:
    path: The CSV; files are looked for beside it.
    lines: [rows], where each row is, for errors: 'FILE, line 7'.
    cells: Column -> [rows], names of files, texts or numbers.
    kinds: Column -> a key of `SUFFIXES`, 'text' or 'number'.
    target: Of each row; none where the cell is empty.
    split: [rows] of `own_splits.SPLITS`, or '' of rows without a label.
    group: [rows] int64, or None.
    present: Modality -> [rows] bool, of modalities that some rows lack: all
      their cells are empty.
  """

  path: pathlib.Path
  lines: list[str]
  cells: dict[str, list[str]]
  kinds: dict[str, str]
  target: targets.Targets
  split: npt.NDArray[np.str_]
  group: npt.NDArray[np.int64] | None
  present: dict[str, npt.NDArray[np.bool_]]

  @property
  def modalities(self) -> dict[str, tuple[str, ...]]:
    """Modality -> its columns: one of files or texts, some of numbers."""
    found: dict[str, tuple[str, ...]] = {}
    for column, kind in self.kinds.items():
      name = modality_of_numbers(column) if kind == 'number' else column
      found[name] = (*found.get(name, ()), column)
    return found

  def numbers(self, column: str) -> npt.NDArray[np.float64]:
    """The numbers of a column, [rows], NaN where the cell is empty."""
    return np.array([float(cell or 'nan') for cell in self.cells[column]])


def modality_of_numbers(column: str) -> str:
  """The modality of a column of numbers.

  Examples:
    >>> modality_of_numbers('age'), modality_of_numbers('eye.left')
    ('numbers', 'eye')
  """
  modality, dot, _ = column.partition('.')
  return modality if dot else NUMBERS


def find(path: str | os.PathLike[str]) -> pathlib.Path | None:
  """The CSV of a folder, or the one whose path is given; None if there is none.

  Raises:
    ValueError: if a folder has several.
  """
  where = pathlib.Path(path).expanduser().resolve()
  if where.suffix.lower() == '.csv':
    return where
  found = sorted(
    path
    for path in (where.iterdir() if where.is_dir() else ())
    if path.suffix.lower() == '.csv'
  )
  if len(found) > 1:
    names = ', '.join(each.name for each in found)
    raise ValueError(
      f'{where} has the lists {names}; give the path of one. All rows may stand'
      ' in one, with a column split.'
    )
  return found[0] if found else None


def located(path: str | os.PathLike[str]) -> pathlib.Path:
  """What `find` returns; FileNotFoundError if there is no such file."""
  found = find(path)
  if found is None or not found.is_file():
    raise FileNotFoundError(
      f'There is no {found or f"CSV in {path}"}. Expected, for predictions'
      f' without the label:\n{TREE}'
    )
  return found


def read(path: str | os.PathLike[str]) -> Table:
  r"""Reads the CSV of a folder, but no files; again when it has changed.

  Splits that are not given are drawn; see `own_splits.of_rows`.

  Args:
    path: A folder as `TREE` says, or the CSV in one; with `,regression` behind
      it, whole numbers are no classes.

  Raises:
    FileNotFoundError: if there is no CSV.
    ValueError: if it does not fit; the message names line and column.

  Examples:
    >>> import tempfile
    >>> rows = ['clip,words,label', *(f'{i}.wav,hm,{i % 2}' for i in range(20))]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   _ = pathlib.Path(folder, 'list.csv').write_text('\n'.join(rows))
    ...   table = read(folder)
    >>> table.kinds, table.target.classes
    ({'clip': 'sound', 'words': 'text'}, ('0', '1'))
  """
  path, regression = targets.parsed(path)
  found = located(path)
  return _read(found, found.stat().st_mtime_ns, regression)


@functools.lru_cache(maxsize=2)
def _read(path: pathlib.Path, _: int, regression: bool) -> Table:
  with lists.at(str(path)):
    return _table(path, *columns(path), regression)


def _table(
  path: pathlib.Path,
  lines: list[str],
  cells: dict[str, list[str]],
  regression: bool,
) -> Table:
  arrays.check_names(cells)
  if 'label' not in cells:
    raise ValueError(
      f"it has the columns {list(cells)}, and no 'label'. Expected, with commas"
      f' between columns:\n{TREE}'
    )
  if 'label_present' in cells:
    raise ValueError(
      "it has a column 'label_present'. Leave it out; where there is no label,"
      ' leave its cell empty.'
    )
  for name in cells.keys() & set(arrays.NO_MODALITIES) - {'label'}:
    if '' in cells[name]:
      row = cells[name].index('')
      raise ValueError(f'{lines[row]}, column {name!r}: it is empty.')
  kinds = {
    name: kind(path.parent, name, lines, values)
    for name, values in cells.items()
    if name not in arrays.NO_MODALITIES
  }
  if not kinds:
    raise ValueError(
      f'it has the columns {list(cells)}, and no modality. Expected:\n{TREE}'
    )
  target = targets.of_cells(lines, cells['label'], regression=regression)
  targets.tell(str(path), target.is_there, lines)
  given, group = (
    np.array(cells[name]) if name in cells else None
    for name in ('split', 'group')
  )
  split, group = own_splits.of_rows(target, given, group, lines)
  own = {name: cells[name] for name in kinds}
  table = Table(path, lines, own, kinds, target, split, group, present={})
  has = {
    name: _has(table, name, of_name)
    for name, of_name in table.modalities.items()
  }
  present = own_splits.lacking(has, target, split, lines)
  return table._replace(present=present)


def _has(
  table: Table, name: str, of_name: tuple[str, ...]
) -> npt.NDArray[np.bool_]:
  """Which rows have a modality: all of its columns, or they lack all."""
  kinds = {table.kinds[column] for column in of_name}
  if len(kinds) > 1:
    raise ValueError(
      f'it has a column {name!r}, and the columns of numbers'
      f' {sorted(set(of_name) - {name})} make a modality of that name. Rename'
      ' it, or call these MODALITY.FEATURE, with another MODALITY.'
    )
  (kind,) = kinds
  filled = np.array(
    [
      [not is_empty(kind, cell) for cell in table.cells[column]]
      for column in of_name
    ]
  )
  has = np.all(filled, axis=0)
  gaps = table.target.is_there & np.any(filled, axis=0) & ~has
  if gaps.any():
    row = np.argmax(gaps)
    empty = [of_name[i] for i in np.flatnonzero(~filled[:, row])]
    raise ValueError(
      f'{table.lines[row]}: {name!r} has no {empty}; expected all of'
      f' {list(of_name)}, or none in a row that lacks {name!r}. Fill the gap,'
      ' or leave the row out.'
    )
  return has


def columns(path: pathlib.Path) -> tuple[list[str], dict[str, list[str]]]:
  """Where each row of a CSV is, and its columns by name.

  Raises:
    ValueError: if it has no row, names a column twice or not, or a row has
      fewer or more cells.
  """
  rows = lists.rows(path)
  _, header = next(rows, ('', []))
  if '' in header or len(set(header)) < len(header):
    raise ValueError(
      f'{path} has the columns {header}; expected names, each once.'
    )
  lines, cells = [], []
  for where, row in rows:
    if len(row) != len(header):
      raise ValueError(
        f'{where} has {len(row)} cells; expected {len(header)}: {header}. Put'
        ' commas between columns, and texts with commas in double quotes.'
      )
    lines.append(where)
    cells.append(row)
  if not cells:
    raise ValueError(f'{path} has no row. Expected:\n{TREE}')
  by_column = zip(*cells, strict=True)
  return lines, dict(zip(header, map(list, by_column), strict=True))


def kind(
  root: pathlib.Path, name: str, lines: list[str], values: list[str]
) -> str:
  """What all cells of a column are: a key of `SUFFIXES`, 'text' or 'number'.

  Raises:
    ValueError: if they are of several kinds, files of another, infinite, or
      empty; it names the line.
  """
  kinds = [_kind_of(value) for value in values]
  filled = [i for i, value in enumerate(values) if value]
  if not filled:
    raise ValueError(
      f'{lines[0]}, column {name!r}: it is empty in all rows. Leave it out.'
    )
  # Of names of files some cell may be a mark for none; of texts none is a file.
  files = (
    i for i in filled if kinds[i] != 'text' and _is_file(root, values[i])
  )
  first = next(files, filled[0])
  if kinds[first] == 'text':
    if all(targets.is_number(values[i]) for i in filled):
      for i in filled:
        if math.isinf(float(values[i])):
          raise ValueError(
            f'{lines[i]}, column {name!r}: {values[i]!r}; expected a finite'
            ' number.'
          )
      return 'number'
    if _is_file(root, values[first]):
      raise ValueError(
        f'{lines[first]}, column {name!r}: {values[first]!r} is a file, and no'
        ' text. Expected files that end in'
        f' {", ".join(end for ends in SUFFIXES.values() for end in ends)}.'
      )
    return 'text'
  for line, value, own in zip(lines, values, kinds, strict=True):
    if value and own != kinds[first]:
      raise ValueError(
        f'{line}, column {name!r}: {value!r}; expected a {kinds[first]}, as'
        f' {values[first]!r}: {", ".join(SUFFIXES[kinds[first]])}.'
      )
  heard = name in _HEARD and kinds[first] == 'video'
  return 'sound' if heard else kinds[first]


def is_empty(kind: str, cell: str) -> bool:
  """Whether a cell says nothing, as NaN among numbers does not.

  Examples:
    >>> is_empty('number', 'nan'), is_empty('text', 'nan')
    (True, False)
  """
  return not cell or (kind == 'number' and math.isnan(float(cell)))


def _is_file(root: pathlib.Path, value: str) -> bool:
  # Unlike a path's own, this has no fault to find with long texts.
  return os.path.isfile(os.path.join(root, value))


def _kind_of(value: str) -> str:
  suffix = pathlib.PurePath(value).suffix.lower()
  return next((k for k, known in SUFFIXES.items() if suffix in known), 'text')
