"""Each gradient visits all others, in a random order of its own."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _numerics

# Unrolled steps on an accelerator; so few that many objectives compile quickly.
_UNROLLED = 8

_Carry = TypeVar('_Carry')


def in_random_orders(
  key: jax.Array,
  size: int,
  visit: Callable[[_Carry, jax.Array], _Carry],
  start: _Carry,
) -> tuple[jax.Array, _Carry]:
  """Lets all `size` gradients visit one other each, `size` times.

  In `visit(carry, visited) -> carry`, gradient i visits `visited[i]`, which may
  be i itself. Returns the data of the next key, and the last carry.
  """
  key, (order_key,) = _numerics.split_key(key)
  # Row i: the order in which gradient i visits the others.
  orders = jnp.argsort(jax.random.uniform(order_key, (size, size)), axis=1)
  end, _ = lax.scan(
    lambda carry, visited: (visit(carry, visited), None),
    start,
    orders.T,
    unroll=_numerics.unroll(min(size, _UNROLLED)),
  )
  return key, end


def total_weights(coefficients: jax.Array, lengths: jax.Array) -> jax.Array:
  """Weights of Σ hᵢ, where row i has hᵢ / ‖gᵢ‖ by the unit vectors."""
  return jnp.sum(lengths[:, None] * coefficients, axis=0) / lengths
