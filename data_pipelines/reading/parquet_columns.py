"""Reads Parquet files whose columns are numbers, texts or lists of numbers."""

import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt


def read(path: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
  """Reads a Parquet file; columns `MODALITY.FEATURE` become one array.

  Its features are in the order of their names, not of the file. The row numbers
  that pandas adds to a selection of rows are left out.

  A null in `label` makes `label_present` [rows] False. A null in another column
  of numbers or lists, which is how pandas writes NaN, becomes NaN.

  Raises:
    ModuleNotFoundError: if pyarrow is not installed.
    ValueError: if there are nulls in a column of texts or inside a list, or the
      lists of a column differ in shape. The message names the column and the
      row, counted from 0.
  """
  try:
    from pyarrow import parquet
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f'{path} needs the package pyarrow. Install it with: pip install pyarrow;'
      ' or save the arrays with numpy.savez.',
      name='pyarrow',
    ) from error
  table = parquet.read_table(path)
  columns: dict[str, npt.NDArray[Any]] = {}
  features: dict[str, list[npt.NDArray[Any]]] = {}
  gaps: npt.NDArray[np.bool_] | None = None
  for name in sorted(table.column_names):  # whatever their order in the file
    if name.startswith('__index_level_'):
      continue
    column = table.column(name)
    values = column.to_pylist()
    if column.null_count and name == 'label':
      gaps = column.is_null().to_numpy()
      any_label = next((each for each in values if each is not None), 0)
      values = [any_label if each is None else each for each in values]
    array = _stacked(path, name, values)
    modality, dot, _ = name.partition('.')
    if dot:
      features.setdefault(modality, []).append(array)
    else:
      columns[name] = array
  for name, arrays in features.items():
    shapes = {array.shape for array in arrays}
    if name in columns or len(shapes) > 1:
      raise ValueError(
        f"{path} has columns '{name}.FEATURE' of the shapes {sorted(shapes)},"
        f' and the columns {sorted({name} & columns.keys())}; expected one'
        ' shape, and no column named after the modality.'
      )
    columns[name] = np.stack(arrays, axis=-1)
  if gaps is not None:
    declared = columns.get('label_present', True)
    columns['label_present'] = ~gaps & np.asarray(declared, bool)
  return columns


def _stacked(
  path: pathlib.Path, name: str, values: list[Any]
) -> npt.NDArray[Any]:
  """Stacks the rows of a column, which must have one shape; None is NaN."""
  shape: tuple[int, ...] | None = None
  kind = 'f'
  for row, value in enumerate(values):
    if value is None:
      continue
    try:
      found = np.array(value)
    except ValueError:
      found = None
    if found is None or found.dtype == object:
      raise ValueError(
        f'{path}, row {row}, column {name!r}: {repr(value)[:60]}; expected a'
        ' number, a text, or lists of numbers without gaps, of one length each.'
        ' Pictures, sounds and long texts belong in a folder with a CSV.'
      )
    kind = found.dtype.kind
    shape = found.shape if shape is None else shape
    if found.shape != shape:
      raise ValueError(
        f'{path}, row {row}, column {name!r}: the shape {found.shape}, but'
        f' earlier rows have {shape}. Pad them, and give the lengths as'
        f" '{name}_length'."
      )
  if None not in values:
    return np.array(values)
  if kind not in 'biuf' or shape is None:
    row = values.index(None)
    raise ValueError(f'{path}, row {row}, column {name!r}: no value.')
  gap = np.full(shape, np.nan)
  return np.array([gap if value is None else value for value in values])
