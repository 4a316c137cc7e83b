"""The identity, with a scaled gradient."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics


def scale_gradient(value: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
  """The value itself; gradients through it are multiplied by a factor.

  For methods that slow down or speed up what lies before an output, such as
  AGM. `optax.scale_gradient` does the same, but as of optax 0.2.8 it compares
  the factor with 0 and 1 in Python, and so refuses a traced one.

  Args:
    value: array of floats.
    factor: scalar, which may be traced; no gradient goes to it.

  Returns:
    `value`, to the bit. Its tangents, and so its gradients, are multiplied by
    `factor` in float32 or wider and keep the value's type.

  Raises:
    ValueError: if `factor` is not a scalar.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> @jax.jit
    ... def gradient(value, factor):
    ...   return jax.grad(lambda x: nn.scale_gradient(x, factor) ** 2)(value)
    >>> float(gradient(3.0, 0.5))
    3.0
  """
  if jnp.shape(factor) != ():
    raise ValueError(
      f'scale_gradient was given a factor of shape {jnp.shape(factor)};'
      ' expected a scalar. Call it under jax.vmap for a factor per row.'
    )
  return _scaled(jnp.asarray(value), jnp.asarray(factor))


@jax.custom_jvp
def _scaled(value: jax.Array, factor: jax.Array) -> jax.Array:
  del factor
  return value


@_scaled.defjvp
def _scaled_jvp(
  primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  value, factor = primals
  tangent, _ = tangents
  wide = _numerics.at_least_float32(tangent)
  scaled = wide * factor.astype(wide.dtype)
  # Not `value`, through which a second derivative would pass unscaled.
  return _scaled(value, factor), scaled.astype(tangent.dtype)
