"""Means, standard errors and ties over seeds."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


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
