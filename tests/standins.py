"""Stand-ins for a user's own code, as configurations name it."""

import jax
from flax import linen

from mimo_jax import nn


class Flat(linen.Module):
  """An encoder of rows of any shape."""

  width: int = 4

  @linen.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Encodes [batch, ...] as [batch, width]."""
    flat = inputs.reshape(len(inputs), -1)
    return linen.relu(linen.Dense(self.width)(flat))


class Coarse(linen.Module):
  """A LeNet on one pixel in sixteen."""

  width: int = 4

  @linen.compact
  def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
    """Encodes [batch, height, width, channels] as [batch, features]."""
    encoder = nn.LeNet(self.width, 3)
    features: jax.Array = encoder(inputs[:, ::4, ::4], train=train)
    return features
