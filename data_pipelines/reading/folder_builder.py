"""Prepares a user's own folder of files that a CSV names."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from data_pipelines import _extra
from data_pipelines import folders
from data_pipelines import missing
from data_pipelines import own_splits
from data_pipelines import targets
from data_pipelines.reading import audio_visual
from data_pipelines.reading import audit
from data_pipelines.reading import builder
from data_pipelines.reading import media
from data_pipelines.reading import pictures
from data_pipelines.reading import sounds
from data_pipelines.reading import videos

with _extra.data_extra():
  import tensorflow_datasets as tfds

# So many damaged files of one ending, and no other, are no accident.
_MANY = 5
_BLACK = pictures.jpeg(np.zeros((1, 1, 3), np.uint8))
# Kind of a column -> the value in rows that lack it. Views can read it; models
# ignore it.
_NOTHING: dict[str, Any] = {
  'picture': [_BLACK],
  'video': [_BLACK],
  'sound': np.zeros(media.RATE // 40, np.int16),
  'text': '',
  'number': 0.0,
}


@dataclasses.dataclass(eq=False)
class Folder(tfds.core.BuilderConfig):
  """The configuration of a folder in its present state."""

  table: folders.Table | None = dataclasses.field(default=None, repr=False)


def folder(path: str | os.PathLike[str]) -> Folder:
  """Returns the configuration of a folder, named after its present state.

  The name has a digest of the CSV and of the sizes and times of all files, so
  the folder is prepared again when one of them changes. What was prepared
  before stays where it is.

  Raises:
    FileNotFoundError, ValueError: as `folders.read`.
  """
  table = folders.read(path)
  root = table.path.parent
  digest = hashlib.sha256(f'{table.path}'.encode() + table.path.read_bytes())
  if table.target.is_regression:
    digest.update(targets.WORD.encode())
  for name, kind in table.kinds.items():
    for cell in table.cells[name] if kind in folders.SUFFIXES else ():
      file = root / cell
      stat = file.stat() if file.is_file() else None
      state = stat and (stat.st_size, stat.st_mtime_ns)
      digest.update(f'{cell} {state}'.encode())
  name = re.sub(r'\W+', '_', root.name)
  return Folder(name=f'{name}-{digest.hexdigest()[:12]}', table=table)


class Builder(builder.FolderBuilder):
  """Prepares the files and texts that a CSV names.

  Every element has, for each column, the encoded picture [1], the encoded
  frames [t] of a video (one a second), a sound [n] int16 at 16 kHz, a text, or
  a number, float64; for each modality that some rows lack,
  `<modality>_present`, bool, where False says that its columns hold
  placeholders; `label` int64, or float64 of a regression; `row` int32, its row
  in the CSV; and `group` int64 if the CSV has groups.
  """

  name = folders.NAME
  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    '1.1.0': 'Rows may lack modalities.'
  }
  BUILDER_CONFIGS: ClassVar[list[Folder]] = []
  MANUAL_DOWNLOAD_INSTRUCTIONS = f'Expected:\n{folders.TREE}'

  def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
    """Returns it as it is; TFDS would warn that it does not know its name."""
    del version
    return builder_config

  @property
  def _table(self) -> folders.Table:
    table: folders.Table = self.builder_config.table
    return table

  def _info(self) -> tfds.core.DatasetInfo:
    target = self._table.target
    clip = audio_visual.features(target.classes, texts=('text',))
    number = tfds.features.Tensor(
      shape=(),
      dtype=np.float64,
      encoding='bytes',  # others are stored in 32 bits
    )
    if target.is_regression:
      clip['label'] = number
    features = {
      'picture': clip['frames'],
      'video': clip['frames'],
      'sound': clip['audio'],
      'text': clip['text'],
      'number': number,
    }
    others = {
      'label': clip['label'],
      'row': tfds.features.Scalar(dtype=np.int32),
    }
    if self._table.group is not None:
      others['group'] = tfds.features.Scalar(dtype=np.int64)
    for name in self._table.present:
      others[missing.entry(name)] = tfds.features.Scalar(dtype=np.bool_)
    columns = {name: features[k] for name, k in self._table.kinds.items()}
    return self.described(columns | others)

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the rows of each split; see `builder.FolderBuilder`."""
    table = self._table
    read = functools.partial(_example, root, table)
    return {
      split: builder.Part(
        {
          table.lines[row]: int(row)
          for row in np.flatnonzero(table.split == split)
        },
        read,
      )
      for split in own_splits.SPLITS
    }

  def _generate_examples(
    self, split: str, part: builder.Part
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """As of other folders, but damage that is no accident ends it."""
    damage: dict[int, str] = {}
    lacking = set(self._table.present)

    def read(line: str, row: int) -> dict[str, Any]:
      try:
        example = part.read(line, row)
      except audit.SkipError as error:
        if error.reason == 'corrupt':
          damage[row] = f'{line}, {error.detail}'
        raise
      lacking.difference_update(
        name for name in self._table.present if example[missing.entry(name)]
      )
      return example

    yield from super()._generate_examples(split, part._replace(read=read))
    _check_endings(self._table, part.items.values(), damage)
    if split == 'train' and lacking:
      raise ValueError(
        f'{self._table.path}: none of the rows of train that have'
        f' {sorted(lacking)} can be read.'
      )


def _check_endings(
  table: folders.Table, rows: Collection[int], damage: Mapping[int, str]
) -> None:
  """Refuses a column in which all files of an ending are damaged."""
  for name, kind in table.kinds.items():
    found: dict[str, list[str]] = {}
    for row in rows if kind in folders.SUFFIXES else ():
      ending = pathlib.PurePath(table.cells[name][row]).suffix.lower()
      found.setdefault(ending, []).append(damage.get(row, ''))
    for ending, said in found.items():
      if len(said) >= _MANY and all(f', column {name!r}: ' in s for s in said):
        raise ValueError(
          f'{table.path}, column {name!r}: none of {len(said)} files that end'
          f' in {ending!r} can be read. The first: {said[0]}. Convert them, or'
          ' leave their rows out.'
        )


def _example(
  root: pathlib.Path, table: folders.Table, line: str, row: int
) -> dict[str, Any]:
  del line
  found: dict[str, Any] = {}
  for name, columns in table.modalities.items():
    has = name not in table.present or bool(table.present[name][row])
    for column in columns:
      kind, cell = table.kinds[column], table.cells[column][row]
      found[column] = entry(root, column, kind, cell) if has else _NOTHING[kind]
    if name in table.present:
      found[missing.entry(name)] = has
  found |= {'label': table.target.label[row].item(), 'row': np.int32(row)}
  if table.group is not None:
    found['group'] = table.group[row]
  return found


def entry(root: pathlib.Path, name: str, kind: str, cell: str) -> Any:
  """Reads the file or text in a cell of a modality, in the form of an element.

  Raises:
    SkipError: if it cannot be read; the error names the column.
  """
  if kind == 'text':
    return cell
  path = root / cell
  try:
    if kind == 'number':
      return float(cell)
    if kind == 'picture':
      return [pictures.read(path)]
    if kind == 'video':
      return videos.read_frames(path, media.one_each_second)
    if path.suffix.lower() in folders.SUFFIXES['video']:
      return videos.read_sound(path)
    return sounds.read(path)
  except audit.SkipError as error:
    raise audit.SkipError(
      error.reason, f'column {name!r}: {error.detail}'
    ) from error


def elements(
  path: str | os.PathLike[str],
  names: Collection[str],
  numbers: Collection[str] = (),
) -> list[dict[str, Any]]:
  """Reads new rows of a folder, which need no labels, without preparing them.

  Args:
    path: A folder with a CSV, or the CSV.
    names: The columns to read, where the CSV has them and some cell is not
      empty; others are left out.
    numbers: Those of them that are numbers.

  Returns:
    An element for each row, without an entry where a cell is empty.

  Raises:
    FileNotFoundError: if there is no CSV.
    ValueError: if the CSV has none of the columns, all are empty, or it cannot
      be read, or a file cannot; the error names line and column.
  """
  where = folders.located(path)
  lines, cells = folders.columns(where)
  kinds = {
    name: folders.kind(where.parent, name, lines, values)
    for name, values in cells.items()
    if name in names and any(values)
  }
  if not kinds:
    raise ValueError(
      f'{where} has the columns {list(cells)}; expected some of'
      f' {sorted(names)}, and not only empty cells there.'
    )
  for name in kinds:
    if name not in numbers and kinds[name] == 'number':
      kinds[name] = 'text'  # whose words are all numbers
    for line, cell in zip(lines, cells[name], strict=True):
      if name in numbers and cell and not targets.is_number(cell):
        raise ValueError(
          f'{line}, column {name!r}: {cell!r}; expected a number.'
        )
  rows = []
  for i, line in enumerate(lines):
    try:
      row = {
        name: entry(where.parent, name, kind, cells[name][i])
        for name, kind in kinds.items()
        if not folders.is_empty(kind, cells[name][i])
      }
    except audit.SkipError as error:
      raise ValueError(
        f'{line}, {error.detail}. Correct it, or leave the row out.'
      ) from error
    rows.append(
      {
        name: np.array(value, object) if isinstance(value, list) else value
        for name, value in row.items()
      }
    )
  return rows
