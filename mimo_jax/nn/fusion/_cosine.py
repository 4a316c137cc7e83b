"""Fusion by cosines."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax.nn import _initializers
from mimo_jax.nn.fusion import _shares


class CosineFusion(nn.Module):
  """Fusion by cosines (MMCosine): lengths of features and kernels do not count.

      logits_k = s Σ_m cos(z_m, w_mk)

  Each modality has a kernel, and w_mk is its column of class k. There is no
  bias. So no modality gets ahead by longer features. Xu et al., arXiv
  2303.05338. Training takes the cross-entropy of these logits, and evaluation
  uses the same logits. The features may have different widths.

  The cosine with features or a kernel of zero is 0, and so are its gradients.

  Attributes:
    num_classes: the number of logits.
    scale: s > 0; 15 in BalanceBenchmark.
    kernel_init: initialiser of the kernels, or its name in
      `flax.linen.initializers`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features = {'audio': jnp.ones((4, 16)), 'visual': jnp.ones((4, 8))}
    >>> fusion = nn.CosineFusion(num_classes=10)
    >>> logits, variables = jax.jit(fusion.init_with_output)(
    ...   jax.random.key(0), features
    ... )
    >>> variables['params']['visual']['kernel'].shape
    (8, 10)
    >>> bool(jnp.all(jnp.abs(logits) < 2 * 15))
    True
  """

  num_classes: int
  scale: float = 15.0
  kernel_init: _initializers.Initializer | str = 'lecun_normal'

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits [batch, num_classes]."""
    return jnp.sum(_shares.in_order(self.shares(features)), axis=0)

  @nn.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Each modality's share of the logits: s cos(z_m, w_mk).

    Args:
      features: mapping modality -> [batch, d_m].

    Returns:
      Mapping modality -> [batch, num_classes], which add up to the logits.
    """
    _arguments.check(
      'CosineFusion', _arguments.finite_above(0), scale=self.scale
    )
    kernel_init = _initializers.initializer(self.kernel_init)
    return {
      name: self.scale
      * _Cosines(self.num_classes, kernel_init, name=name)(value)
      for name, value in features.items()
    }


class _Cosines(nn.Module):
  """Cosines of features and the columns of a kernel."""

  num_classes: int
  kernel_init: _initializers.Initializer

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    kernel = self.param(
      'kernel', self.kernel_init, (features.shape[-1], self.num_classes)
    )
    dtype = _numerics.wide(features, kernel)
    columns = _normalised(kernel.astype(dtype), axis=0)
    return _normalised(features.astype(dtype), axis=-1) @ columns


def _normalised(vectors: jax.Array, axis: int) -> jax.Array:
  """Vectors of length 1 along an axis; zero, gradients too, for zero ones."""
  # Scale entries to at most 1, so that squares cannot overflow. The result
  # does not depend on the scale, so it needs no gradient.
  size = jax.lax.stop_gradient(
    jnp.max(jnp.abs(vectors), axis=axis, keepdims=True)
  )
  is_zero = size < jnp.finfo(vectors.dtype).tiny
  scaled = vectors / jnp.where(is_zero, 1, size)
  squares = jnp.sum(scaled**2, axis=axis, keepdims=True)
  length = jnp.sqrt(jnp.where(is_zero, 1, squares))
  return jnp.where(is_zero, 0, scaled / length)
