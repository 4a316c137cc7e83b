"""How values of a metric are formatted and compared."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.evaluate import metrics
from experiments.evaluate import statistics

Values = npt.NDArray[np.float64]


class Measure(NamedTuple):
  """What a value is, and how it is written and compared."""

  words: str
  higher_is_better: bool
  is_share: bool  # written in per cent

  @classmethod
  def of(cls, metric: str) -> 'Measure':
    """That of a metric in `evaluation.metrics`.

    Examples:
      >>> Measure.of('macro_f1').label
      'macro F1, %'
    """
    name = metric.rpartition(':')[2]
    words = name.replace('_', ' ').replace('f1', 'F1')
    return cls(
      words, metrics.higher_is_better(metric), metrics.is_share(metric)
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
    """Values in the unit in which they are written; shares are in 0..1."""
    return np.asarray(values, np.float64) * (100 if self.is_share else 1)

  def text(self, values: Any, sign: str = '') -> str:
    """Mean ± standard error of values [seeds]; of one seed, the value.

    With the sign '+', positive numbers have theirs, too.

    Examples:
      >>> Measure.of('mean_absolute_error').text([2e-7, 4e-7])
      '3.00e-07 ± 1.00e-07'
    """
    return self._written(*statistics.estimate(self.scaled(values)), sign)

  def text_of(self, mean: float, error: float) -> str:
    """The same of a mean and a standard error that are known."""
    mean, error = self.scaled([mean, error]).tolist()
    return self._written(mean, error, '')

  def _written(self, mean: float, error: float, sign: str) -> str:
    form = f'.{2 if self.is_share else _digits(mean)}f'
    if not self.is_share and 0 < np.fmax(abs(mean), error) < 1e-3:
      form = '.2e'  # of a target in large units
    text = f'{mean:{sign}{form}}'
    return text if np.isnan(error) else f'{text} ± {error:{form}}'


def _digits(mean: float) -> int:
  """Behind the point: four, and fewer of what has digits before it.

  Examples:
    >>> [_digits(mean) for mean in (0.01, -9.5, 10.0, 25_000.0, np.nan)]
    [4, 4, 3, 0, 4]
  """
  if not np.isfinite(mean):
    return 4
  return max(0, 4 - int(np.log10(max(abs(mean), 1))))


class Column(NamedTuple):
  """A column of a table of estimates."""

  measure: Measure
  values: Mapping[str, Values]  # row -> [seeds]


def estimates(
  columns: Mapping[str, Column], mark_best: bool = True
) -> dict[str, dict[str, str]]:
  """Mean ± standard error: column -> row -> text, for `tables.of_cells`.

  If asked for, each column's best by its own direction is **bold**, and ties
  with it are followed by =; nothing is where all have a mean of NaN.
  """
  cells: dict[str, dict[str, str]] = {}
  for name, (measure, values) in columns.items():
    texts = {row: measure.text(one) for row, one in values.items()}
    if mark_best:
      best, tied = statistics.ties(values, measure.higher_is_better)
      texts |= {row: f'{texts[row]} =' for row in tied}
      if not np.isnan(np.mean(values[best])):
        texts[best] = f'**{texts[best]}**'
    cells[name] = texts
  return cells
