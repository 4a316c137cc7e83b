"""What each modality contributes, how unevenly, and how far noise is borne."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def coalitions(modalities: Iterable[str]) -> list[frozenset[str]]:
  """All 2^M sets of modalities, from the empty one to that of all.

  Examples:
    >>> [sorted(coalition) for coalition in coalitions(['b', 'a'])]
    [[], ['a'], ['b'], ['a', 'b']]
  """
  names = sorted(modalities)
  return [
    frozenset(coalition)
    for size in range(len(names) + 1)
    for coalition in itertools.combinations(names, size)
  ]


def shapley(values: Mapping[frozenset[str], float]) -> dict[str, float]:
  """Shapley value of each modality, in a game of modalities.

  The value of modality m is what it adds to a coalition S of others, averaged
  over the orders in which M modalities may join:

    φₘ = Σ_{S ∌ m} |S|! (M − |S| − 1)! / M! · (v(S ∪ {m}) − v(S))

  (Shapley, "A Value for n-Person Games", 1953). With v the accuracy on the test
  split while all but S is missing, it is BalanceBenchmark's contribution of a
  modality to the data set. Values may be negative.

  Args:
    values: v of every coalition, the empty one included; `coalitions` lists
      them.

  Returns:
    Modality -> φ, in order of names; they sum to v(all) - v(none).

  Raises:
    ValueError: if a coalition lacks its value.

  Examples:
    >>> values = {'': 0.1, 'a': 0.5, 'b': 0.3, 'ab': 0.6}
    >>> shapley({frozenset(k): v for k, v in values.items()})
    {'a': 0.35, 'b': 0.15}
  """
  modalities = sorted(frozenset[str]().union(*values))
  missing = [sorted(s) for s in coalitions(modalities) if s not in values]
  if missing:
    raise ValueError(
      f'Expected a value of each coalition of {modalities}, the empty one'
      f' included; there is none of {missing}.'
    )
  number = len(modalities)
  contributions = {}
  for name in modalities:
    others = [other for other in modalities if other != name]
    contributions[name] = sum(
      (values[coalition | {name}] - values[coalition])
      / (number * math.comb(number - 1, len(coalition)))
      for coalition in coalitions(others)
    )
  return contributions


def imbalance_degree(values: Mapping[str, float]) -> float:
  """Mean over pairs of modalities of the difference of their values, |vₘ − vₙ|.

  The definition is ours: BalanceBenchmark's paper names such a degree, and its
  code has none. Take it of accuracies of the modalities' own outputs, or of
  Shapley values.

  Args:
    values: modality -> its value.

  Returns:
    A number of at least 0, in the unit of the values; NaN for one modality,
    which has no pair.

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

  The trapezoid rule through all points, divided by the range of the levels.
  MultiBench's relative robustness is the area itself, with a step of 0.1
  whatever the levels; divided, it is an average accuracy (if the metric is),
  and levels of another number or range can be compared.

  Args:
    levels: at least two, ascending.
    values: the metric at each of them.

  Returns:
    A number between the least and the largest value.

  Raises:
    ValueError: if there are fewer levels, they do not ascend, or the numbers of
      levels and values differ.

  Examples:
    >>> relative_robustness([0.0, 1.0, 3.0], [0.9, 0.7, 0.1])  # (0.8 + 1.6 / 2)
    0.533
  """
  if (
    len(levels) != len(values)
    or len(levels) < 2
    or np.any(np.diff(levels) <= 0)
  ):
    raise ValueError(
      'Expected at least two ascending levels and as many values, got levels'
      f' {list(levels)} and {len(values)} values.'
    )
  area = np.trapezoid(values, levels)
  return float(area / (levels[-1] - levels[0]))
