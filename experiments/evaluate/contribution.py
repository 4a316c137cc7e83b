"""How unevenly modalities contribute, and robustness to noise."""

import itertools
from collections.abc import Mapping

import numpy as np


def imbalance_degree(values: Mapping[str, float]) -> float:
  """Mean over pairs of modalities of the difference of their values, |vₘ − vₙ|.

  The definition is ours: BalanceBenchmark's paper names such a degree, but its
  code has none. It is for accuracies of the modalities' own outputs, or for
  Shapley values. NaN for a single modality.

  Examples:
    >>> imbalance_degree({'a': 0.9, 'b': 0.5, 'c': 0.4})  # 0.4, 0.5 and 0.1
    0.333
  """
  pairs = list(itertools.combinations(values.values(), 2))
  if not pairs:
    return float('nan')
  return float(np.mean([abs(one - other) for one, other in pairs]))


def relative_robustness(curve: Mapping[float, float]) -> float:
  """Mean of a metric over a range of noise levels: the area under its curve.

  The area is computed by the trapezoid rule, and divided by the range of the
  levels: at least two, ascending. MultiBench takes the area itself, with a step
  of 0.1 whatever the levels. Divided, it is an average accuracy (if the metric
  is), and comparable across numbers and ranges of levels.

  Examples:
    >>> relative_robustness({0.0: 0.9, 1.0: 0.7, 3.0: 0.1})  # (0.8 + 1.6 / 2)
    0.533
  """
  levels = list(curve)
  area = np.trapezoid(list(curve.values()), levels)
  return float(area / (levels[-1] - levels[0]))
