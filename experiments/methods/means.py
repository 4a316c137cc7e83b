"""Means of the values that count, over one batch or many."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def of(
  values: jax.Array, counts: jax.Array, axis: int | None = None
) -> jax.Array:
  """The mean over an axis of the values that count; 0 where none does.

  The `counts` are booleans of the values' shape.

  Examples:
    >>> values = jnp.array([[1.0, 2.0, jnp.nan], [jnp.inf] * 3])
    >>> counts = jnp.array([[True, True, False], [False] * 3])
    >>> of(values, counts, axis=1).tolist()
    [1.5, 0.0]
  """
  total = jnp.sum(values, axis=axis, where=counts)
  return total / jnp.maximum(jnp.sum(counts, axis=axis), 1)


class Mean(NamedTuple):
  """A mean over the rows that a rehearsal has seen so far."""

  sums: jax.Array  # [K]
  rows: jax.Array  # []

  @property
  def value(self) -> jax.Array:
    """The mean, [K]."""
    return self.sums / self.rows


def begin(number: int) -> Mean:
  """The mean of some number of values, before the first row."""
  return Mean(jnp.zeros(number), jnp.zeros(()))


def added(mean: Mean, values: jax.Array, is_row: jax.Array) -> Mean:
  """The mean with the `values` [K, batch] of another batch.

  Padding, where `is_row` [batch] is False, does not count.
  """
  sums = jnp.sum(values, axis=1, where=is_row[None])
  return Mean(mean.sums + sums, mean.rows + jnp.sum(is_row))
