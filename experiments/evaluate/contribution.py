"""How unevenly modalities contribute, and robustness to noise."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np


def imbalance_degree(values: Mapping[str, float]) -> float:
  """Mean over pairs of modalities of the difference of their values, |vₘ − vₙ|.

  The definition is ours: BalanceBenchmark's paper names such a degree, and its
  code has none. Take it of accuracies of the modalities' own outputs, or of
  Shapley values. NaN for one modality, which has no pair.

  Examples:
    >>> imbalance_degree({'a': 0.9, 'b': 0.5, 'c': 0.4})  # 0.4, 0.5 and 0.1
    0.333
  """
  pairs = list(itertools.combinations(values.values(), 2))
  if not pairs:
    return float('nan')
  return float(np.mean([abs(one - other) for one, other in pairs]))


def relative_robustness(
  levels: Sequence[float], values: Sequence[float]
) -> float:
  """Mean of a metric over a range of noise levels: the area under its curve.

  By the trapezoid rule through all points, divided by the range of the levels,
  of which there are at least two, ascending. MultiBench's is the area itself,
  with a step of 0.1 whatever the levels; divided, it is an average accuracy (if
  the metric is), and levels of another number or range can be compared.

  Examples:
    >>> relative_robustness([0.0, 1.0, 3.0], [0.9, 0.7, 0.1])  # (0.8 + 1.6 / 2)
    0.533
  """
  number = len(levels)
  if number != len(values) or number < 2 or np.any(np.diff(levels) <= 0):
    raise ValueError(
      'Expected at least two ascending levels and as many values, got levels'
      f' {list(levels)} and {len(values)} values.'
    )
  return float(np.trapezoid(values, levels) / (levels[-1] - levels[0]))
