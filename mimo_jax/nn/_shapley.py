"""Shapley values of a game among a few modalities."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

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


def shapley_outputs(
  fuse: Callable[[dict[str, jax.Array]], jax.Array],
  features: Mapping[str, jax.Array],
  absent: Mapping[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The fused logits, and each modality's Shapley value of them (AGM).

      φ_m = Σ_S |S|! (M - |S| - 1)! / M! · (f(S ∪ m) - f(S)),    f(∅) = 0,

  over the coalitions S without m, where f(S) fuses the features of S with what
  stands for absence in place of the rest; of two modalities,
  φ_a = (f(a, v) - f(0, v) + f(a, 0)) / 2. They add up to the fused logits.
  Li et al., arXiv 2308.07686. `LateFusion(heads='shapley')` calls this.

  Args:
    fuse: function from a mapping of features to logits, called 2^M - 1 times.
    features: mapping modality -> [batch, d_m], of M modalities.
    absent: the same modalities and shapes, what `fuse` gets of a modality that
      is not in a coalition.

  Returns:
    Logits [batch, num_classes] of all features, and a mapping modality -> φ_m,
    [batch, num_classes], in the order of `features`.

  Raises:
    ValueError: if `absent` has other modalities than `features`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> fused, values = nn.shapley_outputs(
    ...   lambda features: features['a'] * features['v'] + features['a'],
    ...   {'a': jnp.array([[3.0]]), 'v': jnp.array([[4.0]])},
    ...   {'a': jnp.array([[0.0]]), 'v': jnp.array([[1.0]])},
    ... )
    >>> fused.item(), values['a'].item(), values['v'].item()
    (15.0, 10.5, 4.5)
  """
  if set(features) != set(absent):
    raise ValueError(
      f'absent has the modalities {sorted(absent)}; expected those of the'
      f' features, {sorted(features)}.'
    )
  players = tuple(features)
  values = {
    coalition: fuse(
      {
        name: (features if name in coalition else absent)[name]
        for name in players
      }
    )
    for coalition in coalitions(players)
  }
  return values[frozenset(players)], shapley_values(values, players)
