"""Padded sequences of different lengths in one array."""

import jax
import jax.numpy as jnp


def valid_steps(inputs: jax.Array, length: jax.Array | None) -> jax.Array:
  """Which steps are data, [batch, time]; the others are padding.

  Of inputs [batch, time, d] the first `length` [batch] are; all for None.
  """
  if inputs.ndim != 3:
    raise ValueError(f'Expected [batch, time, d], given {inputs.shape}.')
  batch, time, _ = inputs.shape
  if length is None:
    return jnp.ones((batch, time), bool)
  if length.shape != (batch,) or not jnp.issubdtype(length.dtype, jnp.integer):
    raise ValueError(
      f'Expected length [batch] = ({batch},) of integers for inputs of shape'
      f' {inputs.shape}; given {length.dtype}{list(length.shape)}.'
    )
  return jnp.arange(time)[None] < length[:, None]


def where_valid(valid: jax.Array, values: jax.Array) -> jax.Array:
  """Replaces padding in values [..., d] by zero, even if it is NaN."""
  return jnp.where(valid[..., None], values, jnp.zeros_like(values))


def last_valid(valid: jax.Array, values: jax.Array) -> jax.Array:
  """Takes the last valid step, [batch, d]; zeros for an empty sequence."""
  index = jnp.maximum(jnp.sum(valid, 1) - 1, 0)
  last = jnp.take_along_axis(values, index[:, None, None], 1)[:, 0]
  return where_valid(jnp.any(valid, 1), last)
