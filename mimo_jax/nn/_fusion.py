"""Ways to fuse the features of all modalities into logits."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn


class ConcatFusion(nn.Module):
  """Fusion by concatenation: one dense layer on all features side by side.

  Attributes:
    num_classes: the number of logits.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features = {'audio': jnp.ones((4, 16)), 'visual': jnp.ones((4, 8))}
    >>> fusion = nn.ConcatFusion(num_classes=10)
    >>> variables = fusion.init(jax.random.key(0), features)
    >>> variables['params']['Dense_0']['kernel'].shape
    (24, 10)
  """

  num_classes: int

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m], in the order of their names, to logits."""
    ordered = [features[name] for name in sorted(features)]
    return nn.Dense(self.num_classes)(jnp.concatenate(ordered, axis=-1))


class SumFusion(nn.Module):
  """Fusion by sum: each modality's features give logits, which are added.

  The features may have different widths. As a map from features to logits it
  is as expressive as `ConcatFusion`; its initialisation differs (each dense
  layer is scaled by its own width) and so does training.

  Attributes:
    num_classes: the number of logits.

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

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits [batch, num_classes]."""
    logits = [
      nn.Dense(self.num_classes, name=name)(features[name])
      for name in sorted(features)
    ]
    return jnp.sum(jnp.stack(logits), axis=0)
