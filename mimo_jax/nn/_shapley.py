"""Shapley values of a game among a few modalities."""

import itertools
import math
from collections.abc import Mapping, Sequence

import jax


def coalitions(players: Sequence[str]) -> list[frozenset[str]]:
  """All coalitions but the empty one, 2^M - 1 of M players.

  Args:
    players: their names.

  Returns:
    The coalitions, smaller ones first.

  Examples:
    >>> from mimo_jax.nn import _shapley
    >>> [sorted(each) for each in _shapley.coalitions(['a', 'v'])]
    [['a'], ['v'], ['a', 'v']]
  """
  return [
    frozenset(chosen)
    for size in range(1, len(players) + 1)
    for chosen in itertools.combinations(players, size)
  ]


def shapley_values(
  values: Mapping[frozenset[str], jax.Array], players: Sequence[str]
) -> dict[str, jax.Array]:
  """How much each player brings, averaged over all orders of joining.

      φ_m = Σ_S |S|! (M - |S| - 1)! / M! · (f(S ∪ m) - f(S)),

  over the coalitions S without m, with f(∅) = 0. They add up to f(all).

  Args:
    values: f of every coalition but the empty one.
    players: their names, M of them.

  Returns:
    φ of each player, of the shape of the values.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax.nn import _shapley
    >>> worth = {'a': 1.0, 'v': 2.0, 'av': 5.0}
    >>> values = {frozenset(k): jnp.array(v) for k, v in worth.items()}
    >>> shares = _shapley.shapley_values(values, ['a', 'v'])
    >>> {name: float(share) for name, share in shares.items()}
    {'a': 2.0, 'v': 3.0}
  """
  count = len(players)
  shares = {}
  for player in players:
    terms = []
    for coalition, value in values.items():
      if player in coalition:
        others = coalition - {player}
        weight = 1 / (count * math.comb(count - 1, len(others)))
        gain = value - values[others] if others else value
        terms.append(weight * gain)
    shares[player] = sum(terms[1:], start=terms[0])
  return shares
