"""Means, standard errors and ties over seeds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats


class Estimate(NamedTuple):
  """A mean over seeds and its standard error (NaN for a single seed)."""

  mean: float
  error: float


def estimate(values: npt.NDArray[Any]) -> Estimate:
  """Mean and standard error of the mean.

  Args:
    values: [seeds].

  Returns:
    The sample standard deviation (divisor n − 1) over √n as the error.

  Examples:
    >>> import numpy as np
    >>> estimate(np.array([1.0, 2.0, 3.0, 6.0]))
    Estimate(mean=3.0, error=1.080)
  """
  error = (
    float(np.std(values, ddof=1) / np.sqrt(len(values)))
    if len(values) > 1
    else float('nan')
  )
  return Estimate(float(np.mean(values)), error)


def ties(values: dict[str, npt.NDArray[Any]]) -> tuple[str, list[str]]:
  """The method with the highest mean, and those that tie with it.

  Runs of the same seed share data order and initial parameters, so methods are
  compared seed by seed: a tie is a mean difference no larger than one standard
  error of that difference.

  Args:
    values: method -> [seeds], in the same order of seeds.

  Returns:
    The name of the best method, and the names of those tied with it.

  Examples:
    >>> import numpy as np
    >>> ties({
    ...   'a': np.array([0.9, 0.8, 0.7]),
    ...   'b': np.array([0.8, 0.9, 0.6]),
    ...   'c': np.array([0.5, 0.4, 0.3]),
    ... })
    ('a', ['b'])
  """
  best = max(values, key=lambda name: float(np.mean(values[name])))
  tied = []
  for name in values:
    if name != best:
      difference = estimate(values[best] - values[name])
      # Equal in every seed is a tie too, also with a single seed.
      if difference.mean == 0 or difference.mean <= difference.error:
        tied.append(name)
  return best, tied


class Difference(NamedTuple):
  """One method against another, over the same seeds."""

  estimate: Estimate  # of the differences
  p_value: float  # NaN for a single seed


def difference(
  values: npt.NDArray[Any], others: npt.NDArray[Any]
) -> Difference:
  """The mean difference over paired runs, and a paired t test of it.

  The test is two-sided, of no difference in the mean. Runs that all differ by
  the same have p = 1 if that is zero, else 0.

  Args:
    values: of one method, [seeds].
    others: of another one, on the same seeds.

  Returns:
    The difference, positive where `values` are higher.

  Examples:
    >>> import numpy as np
    >>> difference(np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.8, 0.5]))
    Difference(estimate=Estimate(mean=0.100, error=0.057), p_value=0.225)
  """
  gained = values - others
  if len(gained) < 2:
    p_value = float('nan')
  elif np.ptp(gained) == 0:  # the test would divide by their deviation
    p_value = float(gained[0] == 0)
  else:
    p_value = float(stats.ttest_1samp(gained, 0).pvalue)
  return Difference(estimate(gained), p_value)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Holm's step-down correction of several tests.

  The i-th smallest of n (i from 0) is multiplied by n − i; none becomes smaller
  than one before it, or larger than 1.

  Args:
    p_values: test -> p.

  Returns:
    Test -> corrected p, in the same order; NaN stays, and is not counted.

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
