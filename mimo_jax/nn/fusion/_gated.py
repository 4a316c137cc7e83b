"""Fusion by a gate."""

from collections.abc import Mapping

import jax
from flax import linen as nn

from mimo_jax import _arguments
from mimo_jax.nn import _initializers
from mimo_jax.nn.fusion import _pairs


class GatedFusion(nn.Module):
  """Fusion by a gate: one of two modalities gates the features of the other.

  With g the features of the modality that gates, z those of the other, and σ
  the logistic function,

      logits = (σ(g A + a) ∘ (z B + b)) C + c.

  Kiela et al., arXiv 1802.02892; in audio-visual learning audio is the gate.
  It is defined for two modalities and no other number.

  Attributes:
    num_classes: the number of logits.
    width: the width that both modalities are projected to.
    gate: the modality that gates; None for the first in sorted order (audio
      before visual).
    kernel_init: initialiser of the dense layers, or its name in
      `flax.linen.initializers`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features = {'audio': jnp.ones((4, 16)), 'visual': jnp.ones((4, 8))}
    >>> fusion = nn.GatedFusion(num_classes=10, width=32)
    >>> variables = fusion.init(jax.random.key(0), features)
    >>> sorted(variables['params'])
    ['output', 'projection_audio', 'projection_visual']
  """

  num_classes: int
  width: int = 512
  gate: str | None = None
  kernel_init: _initializers.Initializer | str = 'lecun_normal'

  multiplies = True  # features: a modality has no effect without the other

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits [batch, num_classes].

    Raises:
      ValueError: if the modalities are not two, or `gate` is none of them.
    """
    _arguments.check('GatedFusion', _arguments.whole(1), width=self.width)
    kernel_init = _initializers.initializer(self.kernel_init)
    gating, gated = _pairs.ordered_pair(features, self.gate, 'gate')
    projected = {
      name: nn.Dense(
        self.width, kernel_init=kernel_init, name=f'projection_{name}'
      )(features[name])
      for name in (gating, gated)
    }
    return nn.Dense(self.num_classes, kernel_init=kernel_init, name='output')(
      nn.sigmoid(projected[gating]) * projected[gated]
    )
