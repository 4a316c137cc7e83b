"""Tables of predictions: a row per example, a column per answer."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import parquet
from scipy import special

from experiments.core import runs
from experiments.report import tables

Columns = Mapping[str, npt.NDArray[Any]]


def columns(
  outputs: Mapping[str, npt.NDArray[Any]],
  *,
  has_classes: bool,
  classes: Sequence[str] = (),
) -> dict[str, npt.NDArray[Any]]:
  """What a table says of outputs.

  Args:
    outputs: name -> logits [n, C], or values [n] or [n, d]; NaN where an output
      is missing.
    has_classes: whether they are logits.
    classes: what the C classes are called; none: by their numbers.

  Returns:
    Of logits `<output>`, the class, -1 (or '') where it is missing, and
    `<output>_probability`, its probability; of values `<output>`, or
    `<output>_<i>` if there are several.

  Examples:
    >>> logits = np.log(np.array([[0.2, 0.8], [np.nan, np.nan]]))
    >>> found = columns({'fused': logits}, has_classes=True)
    >>> found['fused'].tolist(), found['fused_probability'].tolist()
    ([1, -1], [0.8, nan])
  """
  found: dict[str, npt.NDArray[Any]] = {}
  for name, values in outputs.items():
    if has_classes:
      is_missing = np.isnan(values).any(axis=-1)
      chosen = np.where(is_missing, -1, values.argmax(axis=-1))
      found[name] = called(chosen, classes)
      found[f'{name}_probability'] = special.softmax(values, axis=-1).max(
        axis=-1
      )
    else:
      each = values.reshape(len(values), -1).T
      for i, column in enumerate(each):
        found[name if len(each) == 1 else f'{name}_{i}'] = column
  return found


def called(
  numbers: npt.NDArray[Any], classes: Sequence[str]
) -> npt.NDArray[Any]:
  """Names of classes for their numbers, '' for -1; numbers, if none are given.

  Examples:
    >>> called(np.array([1, -1]), ('ant', 'bee')).tolist()
    ['bee', '']
  """
  return np.array([*classes, ''])[numbers] if classes else numbers


def write(path: pathlib.Path, table: Columns) -> None:
  """Writes a table whole, by its name as CSV or Parquet.

  An empty cell of CSV, and a null of Parquet, is what is not known.

  Raises:
    ValueError: if the name ends otherwise.
  """
  suffix = path.suffix.lower()
  if suffix not in ('.csv', '.parquet'):
    raise ValueError(f'{path} is no table; expected a .csv or .parquet.')
  path.parent.mkdir(parents=True, exist_ok=True)
  count = len(next(iter(table.values()), ()))
  cells = {'row': list(range(count))}  # unless the table has it
  cells |= {name: _with_gaps(values) for name, values in table.items()}
  if suffix == '.csv':
    rows = zip(*cells.values(), strict=True)
    runs.write_text(path, tables.comma_separated([list(cells), *rows]))
    return
  with runs.replacing(path) as temporary:
    parquet.write_table(pyarrow.table(cells), temporary)


def _with_gaps(values: npt.NDArray[Any]) -> list[Any]:
  """A column's cells as Python has them; None for NaN."""
  return [None if cell != cell else cell for cell in values.tolist()]
