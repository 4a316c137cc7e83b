"""Multi-layer perceptron encoder."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from mimo_jax.nn import _calls


class MLP(nn.Module):
  """Multi-layer perceptron encoder: dense layers, each followed by a ReLU.

  Attributes:
    widths: the width of each layer; the last is that of the features.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> encoder = nn.MLP(widths=(128, 64))
    >>> features, _ = encoder.init_with_output(
    ...   jax.random.key(0), jnp.ones((32, 76))
    ... )
    >>> features.shape
    (32, 64)
  """

  widths: Sequence[int] = (128, 64)

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Encodes inputs [batch, d] as features [batch, widths[-1]]."""
    _calls.check_widths('MLP', widths=self.widths)
    features = inputs
    for width in self.widths:
      features = nn.relu(nn.Dense(width)(features))
    return features
