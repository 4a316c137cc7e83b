"""What replaces a modality in the rows that lack it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from mimo_jax import _numerics

STAND_INS = ('zeros', 'token')


def present_of(inputs: Mapping[str, jax.Array], name: str) -> jax.Array | None:
  """Which rows have a modality, [batch] bool, or None for all."""
  present = inputs.get(f'{name}_present')
  if present is None:
    return None
  if jnp.shape(present) != inputs[name].shape[:1]:
    raise ValueError(
      f"inputs['{name}_present'] has shape {jnp.shape(present)}; expected one"
      f' boolean for each row, {inputs[name].shape[:1]}.'
    )
  return jnp.asarray(present).astype(bool)


def without(value: jax.Array, present: jax.Array | None) -> jax.Array:
  """Replaces absent rows by zeros, so that no NaN reaches statistics."""
  if present is None:
    return value
  rows = _numerics.for_each_row(present, value)
  return jnp.where(rows, value, jnp.zeros((), value.dtype))


class Token(nn.Module):
  """Learned features [d] for rows that lack a modality; initially zeros."""

  @nn.compact
  def __call__(
    self, features: jax.Array, present: jax.Array | None
  ) -> jax.Array:
    """Replaces the features [batch, d] of absent rows by the token."""
    token = self.param('token', nn.initializers.zeros, features.shape[-1:])
    if present is None:
      return features
    token = token.astype(features.dtype)
    return jnp.where(present[:, None], features, token[None])
