"""Fusion by sum."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from mimo_jax.nn import _initializers
from mimo_jax.nn.fusion import _shares


class SumFusion(nn.Module):
  """Fusion by sum: each modality's features give logits, which are added.

  The features may have different widths. As a map from features to logits it
  is as expressive as `ConcatFusion`; its initialisation differs (each dense
  layer is scaled by its own width) and so does training.

  Attributes:
    num_classes: the number of logits.
    kernel_init: initialiser of the dense layers, or its name in
      `flax.linen.initializers`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features = {'audio': jnp.ones((4, 16)), 'visual': jnp.ones((4, 8))}
    >>> fusion = nn.SumFusion(num_classes=10)
    >>> variables = fusion.init(jax.random.key(0), features)
    >>> sorted(variables['params'])
    ['audio', 'visual']
  """

  num_classes: int
  kernel_init: _initializers.Initializer | str = 'lecun_normal'

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits [batch, num_classes]."""
    return jnp.sum(_shares.in_order(self.shares(features)), axis=0)

  @nn.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Each modality's share of the logits: those of its own dense layer.

    Args:
      features: mapping modality -> [batch, d_m].

    Returns:
      Mapping modality -> [batch, num_classes], which add up to the logits.
    """
    kernel_init = _initializers.initializer(self.kernel_init)
    return {
      name: nn.Dense(self.num_classes, kernel_init=kernel_init, name=name)(
        value
      )
      for name, value in features.items()
    }
