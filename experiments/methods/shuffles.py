"""Reorders rows of a batch, so that features no longer match."""

import jax
import jax.numpy as jnp

from experiments.methods import base

# The number that a step's draws of orders are folded by.
_NUMBER = 2


def orders(
  state: base.TrainState, number: int, rows: int, draw: int = 0
) -> jax.Array:
  """Random orders of rows, [number, rows]; each step and draw has its own."""
  key = jax.random.fold_in(state.key, state.step)
  keys = jax.random.split(jax.random.fold_in(key, _NUMBER + draw), number)
  return jax.vmap(lambda one: jax.random.permutation(one, rows))(keys)


def sources(
  state: base.TrainState, modalities: int, rows: int
) -> tuple[jax.Array, jax.Array]:
  """Which row each modality of a mixed row comes from: two arrays [M, batch].

  The second is the mirror image of the first. With two modalities, one of them
  comes from the row itself in each array.
  """
  others = orders(state, modalities - 1, rows)
  rows_of_each = jnp.concatenate([jnp.arange(rows)[None], others])
  (places,) = orders(state, 1, modalities, draw=1)
  return rows_of_each[places], rows_of_each[modalities - 1 - places]
