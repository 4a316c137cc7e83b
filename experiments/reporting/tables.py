"""Markdown tables, and how the values of a metric are written in them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.evaluation import metrics
from experiments.evaluation import statistics

Values = npt.NDArray[np.float64]
Cells = Mapping[str, Mapping[str, str]]  # column -> row -> text
_NUMBER = re.compile(r'[-+]?[\d,.]+(e[-+]?\d+)?|-|')


class Measure(NamedTuple):
  """What a value is, and how it is written and compared.

  Examples:
    >>> Measure.of('macro_f1').label
    'macro F1, %'
    >>> Measure.of('mean_absolute_error').text(np.array([0.5, 0.6, 0.7]))
    '0.6000 ± 0.0577'
  """

  words: str
  higher_is_better: bool = True
  is_share: bool = True  # written in per cent

  @classmethod
  def of(cls, metric: str) -> 'Measure':
    """That of a metric in `evaluation.metrics`."""
    return cls(
      metric.replace('_', ' ').replace('f1', 'F1'),
      metrics.higher_is_better(metric),
      metrics.is_share(metric),
    )

  @property
  def label(self) -> str:
    """With its unit, for an axis or the head of a column."""
    return f'{self.words}, %' if self.is_share else self.words

  @property
  def prose(self) -> str:
    """With its unit, for a sentence."""
    return f'{self.words} in %' if self.is_share else self.words

  def scaled(self, values: Any) -> Values:
    """Values in the unit in which they are written."""
    return np.asarray(values, np.float64) * (100 if self.is_share else 1)

  def text(self, values: Any, sign: str = '') -> str:
    """Mean ± standard error of values [seeds]; of one seed, the value.

    Args:
      values: as they were measured, shares in 0..1.
      sign: '+' to write that of positive numbers, too.
    """
    mean, error = statistics.estimate(self.scaled(values))
    digits = 2 if self.is_share else 4
    text = f'{mean:{sign}.{digits}f}'
    return text if np.isnan(error) else f'{text} ± {error:.{digits}f}'


class Column(NamedTuple):
  """A column of a table of estimates."""

  measure: Measure
  values: Mapping[str, Values]  # row -> [seeds]

  def gain(self, row: str, other: str) -> Values:
    """By how much a row is better than another one, [seeds]."""
    difference = self.values[row] - self.values[other]
    return difference if self.measure.higher_is_better else -difference


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table that reads well as text, too.

  Args:
    header: the names of the columns.
    rows: as many cells each. Columns of numbers alone stand on the right.

  Returns:
    Its lines.

  Raises:
    ValueError: if a row has another number of cells.

  Examples:
    >>> print(markdown(['rule', 'ms'], [['mgda', '7.5'], ['mean', '12.0']]))
    | rule |   ms |
    | ---- | ---: |
    | mgda |  7.5 |
    | mean | 12.0 |
  """
  rows = [list(row) for row in rows]
  columns = [list(column) for column in zip(header, *rows, strict=True)]
  aligned = []
  for name, *cells in columns:
    width = max(3, *map(len, (name, *cells)))
    if cells and all(map(_NUMBER.fullmatch, cells)):
      rule, align = '-' * (width - 1) + ':', str.rjust
    else:
      rule, align = '-' * width, str.ljust
    aligned.append(
      [align(name, width), rule, *(align(c, width) for c in cells)]
    )
  return '\n'.join(
    f'| {" | ".join(line)} |' for line in zip(*aligned, strict=True)
  )


def of_cells(corner: str, cells: Cells) -> str:
  """The table of column -> row -> text, whose rows are the first column's.

  Args:
    corner: the name of the column with the rows' names.
    cells: a row that a column lacks is left empty there.

  Returns:
    Its lines.

  Examples:
    >>> print(of_cells('rule', {'ms': {'mgda': '7.5'}}))
    | rule |  ms |
    | ---- | --: |
    | mgda | 7.5 |
  """
  rows = dict.fromkeys(row for column in cells.values() for row in column)
  return markdown(
    [corner, *cells],
    [[row, *(c.get(row, '') for c in cells.values())] for row in rows],
  )


def estimates(columns: Mapping[str, Column], mark_best: bool = True) -> Cells:
  """Mean ± standard error of each column's rows.

  Args:
    columns: name -> column.
    mark_best: whether to mark the best of each column (**bold**), by its own
      direction, and ties with it (=).

  Returns:
    Column -> row -> text, for `of_cells`.
  """
  cells: dict[str, dict[str, str]] = {}
  for name, (measure, values) in columns.items():
    cells[name] = {row: measure.text(one) for row, one in values.items()}
    if mark_best:
      best, tied = statistics.ties(values, measure.higher_is_better)
      cells[name][best] = f'**{cells[name][best]}**'
      for row in tied:
        cells[name][row] += ' ='
  return cells


def capital(text: str) -> str:
  """A text with a capital letter."""
  return text[:1].upper() + text[1:]


def value(setting: Any) -> str:
  """A value of the configuration."""
  return f'{setting:.4g}' if isinstance(setting, float) else str(setting)
