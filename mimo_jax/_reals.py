"""Converts params and gradients to real numbers, as rules see them.

A complex parameter becomes a pair of real ones. An integer one has no gradient
(in JAX its type is float0) and is left out.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import base


def of_params(params: base.PyTree) -> base.PyTree:
  """Converts params: a last axis [2] for complex ones, None for integers."""

  def read(leaf: jax.Array) -> jax.Array | None:
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.complexfloating):
      return jnp.stack([jnp.real(leaf), jnp.imag(leaf)], axis=-1)
    return leaf if jnp.issubdtype(dtype, jnp.floating) else None

  return jax.tree.map(read, params)


def of_gradient(gradient: base.PyTree) -> base.PyTree:
  """Converts a gradient: last axis [2] if complex, None for integer params."""

  def read(leaf: jax.Array) -> jax.Array | None:
    if _is_of_integers(leaf):
      return None
    if jnp.iscomplexobj(leaf):
      # By JAX's convention, a gradient is the conjugate of this pair.
      return jnp.stack([jnp.real(leaf), -jnp.imag(leaf)], axis=-1)
    return leaf

  return jax.tree.map(read, gradient)


def like_gradient(direction: base.PyTree, gradient: base.PyTree) -> base.PyTree:
  """Converts a direction of real numbers back to the form of a raw gradient."""
  values = iter(jax.tree.leaves(direction))

  def write(leaf: jax.Array) -> jax.Array:
    if _is_of_integers(leaf):
      return jnp.zeros(jnp.shape(leaf), jnp.int32)
    value = next(values)
    if jnp.iscomplexobj(leaf):
      return lax.complex(value[..., 0], -value[..., 1])
    return value

  return jax.tree.map(write, gradient)


def _is_of_integers(leaf: jax.Array) -> bool:
  return jnp.result_type(leaf) == jax.dtypes.float0
