"""Shapley values of a game among a few modalities."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax


def coalitions(players: Iterable[str]) -> list[frozenset[str]]:
  """All 2^M coalitions of M players, the smaller ones first.

  Args:
    players: their names.

  Returns:
    The coalitions, from the empty one to that of all.

  Examples:
    >>> from mimo_jax import nn
    >>> [sorted(coalition) for coalition in nn.coalitions(['b', 'a'])]
    [[], ['a'], ['b'], ['a', 'b']]
  """
  names = sorted(players)
  return [
    frozenset(chosen)
    for size in range(len(names) + 1)
    for chosen in itertools.combinations(names, size)
  ]


def shapley_values(values: Mapping[frozenset[str], Any]) -> dict[str, Any]:
  """What each player contributes, averaged over all orders of joining.

      φ_m = Σ_S |S|! (M - |S| - 1)! / M! · (v(S ∪ m) - v(S))

  over the coalitions S without m (Shapley, "A Value for n-Person Games", 1953).
  Values may be negative.

  Args:
    values: v of every coalition that `coalitions` lists, numbers or arrays.

  Returns:
    Player -> φ, in order of names; they add up to v(all) - v(none).

  Raises:
    ValueError: if a coalition lacks its value.

  Examples:
    >>> from mimo_jax import nn
    >>> values = {'': 0.1, 'a': 0.5, 'b': 0.3, 'ab': 0.6}
    >>> nn.shapley_values({frozenset(k): v for k, v in values.items()})
    {'a': 0.35, 'b': 0.15}
  """
  players = sorted(frozenset[str]().union(*values))
  missing = [sorted(each) for each in coalitions(players) if each not in values]
  if missing:
    raise ValueError(
      f'Expected a value of each coalition of {players}, the empty one'
      f' included; there is none of {missing}.'
    )
  shares = {}
  for player in players:
    terms = []
    for others in coalitions(set(players) - {player}):
      weight = 1 / (len(players) * math.comb(len(players) - 1, len(others)))
      terms.append(weight * (values[others | {player}] - values[others]))
    shares[player] = sum(terms[1:], start=terms[0])
  return shares


def shapley_outputs(
  fuse: Callable[[dict[str, jax.Array]], jax.Array],
  features: Mapping[str, jax.Array],
  absent: Mapping[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The fused logits, and each modality's Shapley value of them (AGM).

  These are the `shapley_values` of f(S), which fuses the features of a
  coalition S and replaces the others by `absent`, with f(∅) = 0. For two
  modalities, φ_a = (f(a, v) - f(0, v) + f(a, 0)) / 2. They add up to the fused
  logits. Li et al., arXiv 2308.07686. `LateFusion(heads='shapley')` calls this.

  Args:
    fuse: function from a mapping of features to logits, called 2^M - 1 times.
    features: mapping modality -> [batch, d_m], of M modalities.
    absent: what `fuse` gets for a modality that is not in a coalition, with the
      same modalities and shapes.

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
  values: dict[frozenset[str], Any] = {
    coalition: fuse(
      {
        name: (features if name in coalition else absent)[name]
        for name in features
      }
    )
    for coalition in coalitions(features)[1:]
  }
  shares = shapley_values({frozenset(): 0, **values})
  return values[frozenset(features)], {name: shares[name] for name in features}
