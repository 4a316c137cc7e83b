"""Fusion by feature-wise linear modulation."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from mimo_jax.nn import _initializers
from mimo_jax.nn.fusion import _pairs


class FiLMFusion(nn.Module):
  """Fusion by feature-wise linear modulation (FiLM), of two modalities.

  With c the features of the modality that modulates and z those of the other,

      (γ, β) = c A + a,    logits = (γ ∘ z + β) B + b,

  so γ and β are as wide as z, and c may have another width. Perez et al.,
  arXiv 1709.07871; in audio-visual learning audio modulates the visual
  features. It is defined for two modalities and no other number.

  Attributes:
    num_classes: the number of logits.
    condition: the modality that modulates; None for the first in sorted order
      (audio before visual).
    kernel_init: initialiser of the dense layers, or its name in
      `flax.linen.initializers`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features = {'audio': jnp.ones((4, 16)), 'visual': jnp.ones((4, 8))}
    >>> fusion = nn.FiLMFusion(num_classes=10)
    >>> variables = fusion.init(jax.random.key(0), features)
    >>> variables['params']['modulation']['kernel'].shape
    (16, 16)
  """

  num_classes: int
  condition: str | None = None
  kernel_init: _initializers.Initializer | str = 'lecun_normal'

  multiplies = True  # features: a modality has no effect without the other

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits [batch, num_classes].

    Raises:
      ValueError: if the modalities are not two, or `condition` is none of them.
    """
    kernel_init = _initializers.initializer(self.kernel_init)
    modulating, modulated = _pairs.ordered_pair(
      features, self.condition, 'condition'
    )
    value = features[modulated]
    modulation = nn.Dense(
      2 * value.shape[-1], kernel_init=kernel_init, name='modulation'
    )(features[modulating])
    gamma, beta = jnp.split(modulation, 2, axis=-1)
    return nn.Dense(self.num_classes, kernel_init=kernel_init, name='output')(
      gamma * value + beta
    )
