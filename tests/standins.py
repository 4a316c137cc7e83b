"""Stand-ins for a user's own code, as configurations name it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from mimo_jax import nn


@dataclasses.dataclass(frozen=True)
class Samples:
  """A view of the first samples of a sound."""

  source: str

  def __call__(self, element, random):
    """Returns 64 numbers, which are zeros behind the end of the sound."""
    del random
    signal = element[self.source][:64]
    return np.pad(signal / np.float32(2**15), (0, 64 - len(signal)))


class Flat(linen.Module):
  """An encoder of rows of any shape."""

  width: int = 4

  @linen.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Encodes [batch, ...] as [batch, width]."""
    flat = inputs.reshape(len(inputs), -1)
    return linen.relu(linen.Dense(self.width)(flat))


def binary_losses(
  logits: Mapping[str, jax.Array], labels: jax.Array, mask: Any = None
) -> dict[str, jax.Array]:
  """Mean binary cross-entropy of each output; of whole rows only."""
  assert mask is None
  losses = optax.sigmoid_binary_cross_entropy
  return {name: jnp.mean(losses(z, labels)) for name, z in logits.items()}


def share_of_right_answers(outputs: Any, targets: Any) -> float:
  """Over all rows and answers."""
  return float(np.mean((outputs > 0) == targets))


class Coarse(linen.Module):
  """A LeNet on one pixel in sixteen."""

  width: int = 4

  @linen.compact
  def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
    """Encodes [batch, height, width, channels] as [batch, features]."""
    encoder = nn.LeNet(self.width, 3)
    features: jax.Array = encoder(inputs[:, ::4, ::4], train=train)
    return features
