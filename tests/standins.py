"""What a user has outside of the project, and names in a configuration."""

import jax
from flax import linen


class Flat(linen.Module):
  """An encoder of rows of any shape."""

  width: int = 4

  @linen.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Encodes [batch, ...] as [batch, width]."""
    flat = inputs.reshape(len(inputs), -1)
    return linen.relu(linen.Dense(self.width)(flat))
