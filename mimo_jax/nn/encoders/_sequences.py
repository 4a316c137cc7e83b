"""Sequences of different lengths in one array."""

import jax
import jax.numpy as jnp


def valid_steps(inputs: jax.Array, length: jax.Array | None) -> jax.Array:
  """Which steps are data; the others are padding.

  Args:
    inputs: [batch, time, d].
    length: [batch], integers: the number of valid steps, which come first.
      None: all steps are valid.

  Returns:
    [batch, time], booleans.

  Raises:
    ValueError: if the shapes are others, or the lengths are not integers.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax.nn import _sequences
    >>> _sequences.valid_steps(jnp.ones((2, 3, 1)), jnp.array([2, 0])).tolist()
    [[True, True, False], [False, False, False]]
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
  """The values, and zero at all that is padding, were it NaN.

  Args:
    valid: [batch, time] or [batch], booleans.
    values: of the same shape and one dimension more.

  Returns:
    An array like `values`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax.nn import _sequences
    >>> valid = jnp.array([True, False])
    >>> _sequences.where_valid(valid, jnp.array([[1.0], [jnp.nan]])).tolist()
    [[1.0], [0.0]]
  """
  return jnp.where(valid[..., None], values, jnp.zeros_like(values))


def last_valid(valid: jax.Array, values: jax.Array) -> jax.Array:
  """The last valid step; zeros of a sequence that has none.

  Args:
    valid: [batch, time], booleans, the valid steps first.
    values: [batch, time, d].

  Returns:
    [batch, d].

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax.nn import _sequences
    >>> valid = jnp.array([[True, True, False], [False, False, False]])
    >>> values = jnp.arange(6.0).reshape(2, 3, 1)
    >>> _sequences.last_valid(valid, values).tolist()
    [[1.0], [0.0]]
  """
  index = jnp.maximum(jnp.sum(valid, 1) - 1, 0)
  last = jnp.take_along_axis(values, index[:, None, None], 1)[:, 0]
  return where_valid(jnp.any(valid, 1), last)
