"""Gradients that a rule remembers: K of them, shaped like the Jacobian."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import jacobian


def zeros(rule: str, num_objectives: int, params: base.PyTree) -> base.PyTree:
  """Leaves [K, ...] of zeros, like params and float32 or wider."""
  if params is None:
    raise ValueError(
      f'{rule} remembers a gradient of each objective, so its state needs'
      ' params for their shapes: init(num_objectives, params).'
    )

  def zeros_like(leaf: jax.Array) -> jax.Array:
    # On an explicit mesh, sharded like the leaf.
    sharding = _numerics.explicit_sharding(leaf)
    if sharding is not None:
      sharding = sharding.update(spec=(None, *sharding.spec))
    return jnp.zeros(
      (num_objectives, *jnp.shape(leaf)),
      _numerics.wide(leaf),
      out_sharding=sharding,
    )

  return jax.tree.map(zeros_like, params)


def squared_lengths(tracker: base.PyTree) -> jax.Array:
  """‖row‖² of each of the K rows, summed as accurately as a Gramian."""
  return jax.vmap(lambda row: jacobian.gramian([row], (0,))[0, 0])(tracker)
