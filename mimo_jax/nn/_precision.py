"""What is narrow on the way and what is not."""

import jax
import jax.numpy as jnp


def at_least_float32(value: jax.Array) -> jax.Array:
  """Widens integers and narrow floats to float32; wider floats stay.

  Args:
    value: of any type of numbers.

  Returns:
    The same values in float32, or float64 if they were.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax.nn import _precision
    >>> _precision.at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
  """
  return value.astype(jnp.promote_types(value.dtype, jnp.float32))
