"""Means, standard errors, the best and its ties, over seeds."""

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

Key = TypeVar('Key', bound=Hashable)

# Relative differences below this are rounding: scores are float64, and
# accuracies lie on a grid.
_ROUNDING = 1e-9


class Estimate(NamedTuple):
  """A mean over seeds and its standard error (NaN for a single seed)."""

  mean: float
  error: float


def estimate(values: npt.NDArray[Any]) -> Estimate:
  """Mean of values [seeds], and their standard deviation (n − 1) over √n."""
  error = float('nan')
  if len(values) > 1:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
  return Estimate(float(np.mean(values)), error)


def _equal(first: float, second: float) -> bool:
  return math.isclose(first, second, rel_tol=_ROUNDING)


def ties(
  values: Mapping[Key, npt.NDArray[Any]], higher_is_better: bool
) -> tuple[Key, list[Key]]:
  """The variant with the best mean, and those that tie with it.

  The best is the first of those that are equal up to rounding; a mean of NaN is
  worse than any number. Runs of the same seed share data order and initial
  parameters, so variants are compared seed by seed: a tie is a mean difference
  no larger than one standard error of that difference. If all seeds but one
  agree, the two are the same number. That is a tie, however they are rounded.

  Args:
    values: variant -> [seeds], in the same order of seeds.
    higher_is_better: the metric's direction.

  Examples:
    >>> nan = float('nan')
    >>> seeds = {'a': [0.5, 0.7], 'b': [0.8, 0.9], 'c': [nan, 1.0]}
    >>> ties({name: np.array(one) for name, one in seeds.items()}, True)
    ('b', [])
  """
  means = {name: float(np.mean(one)) for name, one in values.items()}
  known = [mean for mean in means.values() if not math.isnan(mean)] or [np.nan]
  top = max(known) if higher_is_better else min(known)
  equal = [name for name, mean in means.items() if _equal(mean, top)]
  first = next(iter(equal or means))
  tied = []
  for name in values:
    mean, error = estimate(values[first] - values[name])
    # Equal in the mean is a tie too, also with a single seed.
    is_near = abs(mean) <= error * (1 + _ROUNDING)
    if name != first and (is_near or _equal(means[first], means[name])):
      tied.append(name)
  return first, tied


def p_value(differences: npt.NDArray[Any]) -> float:
  """The p value of a two-sided paired t test, from differences [seeds].

  NaN for a single seed. If all differences are equal, it is 1 if they are zero,
  and 0 otherwise.
  """
  if len(differences) < 2:
    return float('nan')
  if np.ptp(differences) == 0:  # the test would divide by their deviation
    return float(differences[0] == 0)
  return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
  """Holm's step-down correction of several tests.

  The i-th smallest p value of n (i from 0) is multiplied by n − i. None becomes
  smaller than the one before it, or larger than 1. NaN stays, and does not
  count.

  Examples:
    >>> holm({'a': 0.01, 'b': 0.04, 'c': 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
  """
  known = {name: p for name, p in p_values.items() if not np.isnan(p)}
  corrected, largest = dict(p_values), 0.0
  for i, name in enumerate(sorted(known, key=known.__getitem__)):
    largest = max(largest, min(1.0, (len(known) - i) * known[name]))
    corrected[name] = largest
  return corrected
