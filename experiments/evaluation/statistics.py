"""Means, standard errors, the best and its ties over seeds."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

Key = TypeVar('Key', bound=Hashable)


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


def best(values: Sequence[Any], higher_is_better: bool) -> int:
  """The place of the values with the best mean.

  Args:
    values: each [seeds].
    higher_is_better: the metric's direction, as `metrics.higher_is_better`
      tells it.

  Returns:
    Of equal ones the first. A mean of NaN is worse than any number.

  Examples:
    >>> best([[0.5, 0.7], [0.6, 0.7], [float('nan'), 0.9]], True)
    1
    >>> best([[0.5, 0.7], [0.6, 0.7], [float('nan'), 0.1]], False)
    0
  """

  def rank(i: int) -> tuple[bool, float]:
    mean = float(np.mean(values[i]))
    return not math.isnan(mean), mean if higher_is_better else -mean

  return max(range(len(values)), key=rank)


def best_candidate(
  candidates: Sequence[dict[str, Any]], higher_is_better: bool
) -> dict[str, Any]:
  """The candidate whose `validation` [seeds] has the best mean, see `best`.

  Args:
    candidates: each with `values`, and `validation` if there are several.
    higher_is_better: the direction of the metric in `validation`.

  Returns:
    One of them.

  Examples:
    >>> best_candidate(
    ...   [
    ...     {'values': {'c': 1}, 'validation': [0.5, 0.7]},
    ...     {'values': {'c': 2}, 'validation': [0.6, 0.7]},
    ...   ],
    ...   higher_is_better=True,
    ... )['values']
    {'c': 2}
  """
  if len(candidates) == 1:
    return candidates[0]
  scores = [candidate['validation'] for candidate in candidates]
  return candidates[best(scores, higher_is_better)]


def ties(
  values: Mapping[str, npt.NDArray[Any]], higher_is_better: bool
) -> tuple[str, list[str]]:
  """The variant with the best mean, and those that tie with it.

  Runs of the same seed share data order and initial parameters, so variants are
  compared seed by seed: a tie is a mean difference no larger than one standard
  error of that difference.

  Args:
    values: variant -> [seeds], in the same order of seeds.
    higher_is_better: the metric's direction.

  Returns:
    The name of the best variant, and the names of those tied with it.

  Examples:
    >>> import numpy as np
    >>> values = {
    ...   'a': np.array([0.9, 0.8, 0.7]),
    ...   'b': np.array([0.8, 0.9, 0.6]),
    ...   'c': np.array([0.5, 0.4, 0.3]),
    ... }
    >>> ties(values, higher_is_better=True)
    ('a', ['b'])
    >>> ties(values, higher_is_better=False)
    ('c', [])
  """
  first = list(values)[best(list(values.values()), higher_is_better)]
  tied = []
  for name in values:
    if name != first:
      mean, error = estimate(values[first] - values[name])
      # Equal in every seed is a tie too, also with a single seed.
      if mean == 0 or abs(mean) <= error:
        tied.append(name)
  return first, tied


class Difference(NamedTuple):
  """One variant against another, over the same seeds."""

  estimate: Estimate  # of the differences
  p_value: float  # NaN for a single seed


def difference(
  values: npt.NDArray[Any], others: npt.NDArray[Any]
) -> Difference:
  """The mean difference over paired runs, and a paired t test of it.

  The test is two-sided, of no difference in the mean. Runs that all differ by
  the same have p = 1 if that is zero, else 0.

  Args:
    values: of one variant, [seeds].
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


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
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
