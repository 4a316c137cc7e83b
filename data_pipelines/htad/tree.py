"""The table of HTAD, and a tiny copy."""

import csv
import math
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.reading import lists
from data_pipelines.reading import manual

NAMES = ('htad.csv', 'dataset.csv')
CLASSES = (
  *('brush_teeth', 'eat_chips', 'mop_floor', 'sweep'),
  *('type_on_keyboard', 'wash_hands', 'watch_tv'),
)
COLUMNS = {
  'audio': tuple(f'v1_mfcc{number}' for number in range(1, 37)),
  'accelerometer': tuple(
    f'v2_{name}'
    for name in (
      *(f'{kind}{axis}' for kind in ('mean', 'sd', 'max') for axis in 'XYZ'),
      *('corXY', 'corXZ', 'corYZ'),
      *('meanMagnitude', 'sdMagnitude', 'auc', 'meanDif'),
    )
  ),
}
"""The columns of each modality, in the order of its features."""

EXPECTED = {'train': 832, 'validation': 278, 'test': 276}
"""Rows of the published table in each split."""

_LARGEST = float(np.finfo(np.float32).max)
TREE = f"""\
  {NAMES[0]}  1,386 rows, first a line of names: class, the 36 columns
            v1_mfcc1 to v1_mfcc36 of sound, and the 16 of the accelerometer,
            v2_meanX to v2_meanDif; or the same called {NAMES[1]}."""


class Table(NamedTuple):
  """The rows of the file."""

  features: dict[str, npt.NDArray[np.float32]]  # modality -> [rows, features]
  label: npt.NDArray[np.int64]  # [rows], index into `CLASSES`


def read(root: pathlib.Path) -> Table:
  """Reads the table in a folder.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a column is missing, or a value is not a finite number or not
      a class. The message names the column and the row, counted from 1 below
      the header.
  """
  path = manual.file(root, NAMES, TREE)
  rows = [cells for _, cells in lists.rows(path)]
  header = rows[0] if rows else []
  wanted = ['class', *(name for names in COLUMNS.values() for name in names)]
  if wrong := [name for name in wanted if header.count(name) != 1]:
    raise ValueError(
      f'{path} has {len(header)} columns; these are missing or repeated:'
      f' {", ".join(wrong)}. Expected:\n{TREE}'
    )
  place = {name: header.index(name) for name in wanted}
  values: dict[str, list[list[float]]] = {name: [] for name in COLUMNS}
  label = []
  for number, row in enumerate(rows[1:], 1):
    if len(row) != len(header):
      raise ValueError(
        f'{path}, row {number}, has {len(row)} columns; expected'
        f' {len(header)}, as in the header. Fetch it again.'
      )
    name = row[place['class']]
    if name not in CLASSES:
      raise ValueError(
        f'{path}, row {number}, column class: {name!r}; expected one of'
        f' {", ".join(CLASSES)}.'
      )
    label.append(CLASSES.index(name))
    for modality, names in COLUMNS.items():
      values[modality].append(
        [_number(row[place[each]], path, number, each) for each in names]
      )
  if not label:
    raise ValueError(f'{path} has no row. Expected:\n{TREE}')
  return Table(
    {name: np.array(each, np.float32) for name, each in values.items()},
    np.array(label, np.int64),
  )


def _number(text: str, path: pathlib.Path, row: int, column: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not abs(value) < _LARGEST:
    raise ValueError(
      f'{path}, row {row}, column {column}: {text!r}; expected a finite number.'
    )
  return value


def write_sample(root: pathlib.Path) -> None:
  """Writes a tiny table whose labels can be learned from either modality.

  Rows are sorted by class, as in the published table.
  """
  random = np.random.RandomState(0)
  num_columns = sum(map(len, COLUMNS.values()))
  means = random.normal(0, 3, (len(CLASSES), num_columns))
  root.mkdir(parents=True, exist_ok=True)
  (root / 'README.txt').write_text('Rows of htad.csv here are made up.\n')
  with (root / NAMES[0]).open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['class', *COLUMNS['audio'], *COLUMNS['accelerometer']])
    for name, mean in zip(CLASSES, means, strict=True):
      for _ in range(20):
        values = mean + random.normal(size=num_columns)
        writer.writerow([name, *(f'{value:.9f}' for value in values)])
