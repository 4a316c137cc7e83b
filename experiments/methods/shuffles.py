"""Rows of a batch in another order: features that do not belong together."""

from collections.abc import Mapping

import jax

from experiments.methods import base

# Where a step's draws of orders are folded from its key.
_NUMBER = 2


def orders(
  state: base.TrainState, number: int, rows: int, draw: int = 0
) -> jax.Array:
  """Random orders of rows, [number, rows]; others at each step and draw."""
  key = jax.random.fold_in(state.key, state.step)
  keys = jax.random.split(jax.random.fold_in(key, _NUMBER + draw), number)
  return jax.vmap(lambda one: jax.random.permutation(one, rows))(keys)


def reordered(
  features: Mapping[str, jax.Array], name: str, order: jax.Array
) -> dict[str, jax.Array]:
  """Features [batch, ...], of which one modality's rows are in an order.

  Examples:
    >>> import jax.numpy as jnp
    >>> features = {'a': jnp.arange(3), 'b': jnp.arange(3)}
    >>> found = reordered(features, 'b', jnp.array([2, 0, 1]))
    >>> {name: value.tolist() for name, value in found.items()}
    {'a': [0, 1, 2], 'b': [2, 0, 1]}
  """
  return {**features, name: features[name][order]}
