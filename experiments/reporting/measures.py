"""How the values of a metric are written and compared."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.evaluation import metrics
from experiments.evaluation import statistics
from experiments.reporting import tables

Values = npt.NDArray[np.float64]


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


def estimates(
  columns: Mapping[str, Column], mark_best: bool = True
) -> tables.Cells:
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
