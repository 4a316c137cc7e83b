"""Measures overfitting of objectives, and weights them by it."""

from typing import Literal

import jax
import jax.numpy as jnp


def blend(
  train_start: jax.Array,
  validation_start: jax.Array,
  train_end: jax.Array,
  validation_end: jax.Array,
  *,
  negative: Literal['zero', 'absolute'] = 'zero',
) -> jax.Array:
  """Weights by how much objectives generalise and how little they overfit.

  With the training losses T and the validation losses V at the start and the
  end of a window, each [K],

      w_k ∝ ΔG_k / ΔO_k²,    ΔG = V_start - V_end,    O = V - T

  divided by their sum. ΔG is what was learnt and generalises, ΔO the growth of
  what does not. If ΔG < 0, since the loss rose on validation rows,
  `negative='zero'` gives the objective no weight, and 'absolute' takes |ΔG|, as
  BalanceBenchmark does, which rewards the rise.

  An objective whose overfitting does not change would get all of the weight, so
  |ΔO| is at least the rounding error of the four losses. An objective whose
  losses are not all finite gets 0. If all get 0, the weights are equal.

  Examples:
    >>> weights = blend(
    ...   jnp.array([1.5, 1.6, 1.7]),
    ...   jnp.array([1.6, 1.7, 1.75]),
    ...   jnp.array([0.3, 0.6, 1.2]),
    ...   jnp.array([1.1, 1.2, 1.45]),
    ... )
    >>> weights.tolist()
    [0.097, 0.190, 0.713]
  """
  losses = jnp.stack([train_start, validation_start, train_end, validation_end])
  finite = jnp.all(jnp.isfinite(losses), axis=0)
  losses = jnp.where(finite, losses, 0)
  start, held_start, end, held_end = losses
  gain = held_start - held_end
  gain = jnp.abs(gain) if negative == 'absolute' else jnp.maximum(gain, 0)
  rounding = jnp.finfo(losses.dtype).eps * jnp.sum(jnp.abs(losses), axis=0)
  growth = (held_end - end) - (held_start - start)
  growth = jnp.maximum(jnp.abs(growth), rounding)
  useful = finite & (gain > 0)
  # Ratios to the least growth, since their squares cannot overflow.
  least = jnp.min(jnp.where(useful, growth, jnp.inf))
  ratios = jnp.where(useful, least / growth, 0)
  scores = gain / jnp.max(jnp.where(useful, gain, 1)) * ratios**2
  total = jnp.sum(scores)
  none = total == 0
  return jnp.where(none, 1 / len(scores), scores / jnp.where(none, 1, total))
