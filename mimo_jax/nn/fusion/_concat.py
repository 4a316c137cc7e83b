"""Fusion by concatenation."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mimo_jax.nn import _calls
from mimo_jax.nn import _initializers


class ConcatFusion(nn.Module):
  """Fusion by concatenation: one dense layer on all features side by side.

  With hidden layers it is a multi-layer perceptron, with ReLU in between
  (MultiBench's AV-MNIST has one hidden layer of 100).

  Attributes:
    num_classes: the number of logits.
    hidden_widths: the width of each layer before the last one.
    kernel_init: initialiser of the dense layers, or its name in
      `flax.linen.initializers`.

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
  hidden_widths: Sequence[int] = ()
  kernel_init: _initializers.Initializer | str = 'lecun_normal'

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m], in the order of their names, to logits."""
    _calls.check_widths('ConcatFusion', hidden_widths=self.hidden_widths)
    kernel_init = _initializers.initializer(self.kernel_init)
    ordered = [features[name] for name in sorted(features)]
    hidden = jnp.concatenate(ordered, axis=-1)
    for width in self.hidden_widths:
      hidden = nn.relu(nn.Dense(width, kernel_init=kernel_init)(hidden))
    return nn.Dense(self.num_classes, kernel_init=kernel_init)(hidden)

  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Each modality's share of the logits: z_m W_m + b/M.

    W_m is the slice of the shared kernel that meets the features z_m, b the
    bias, M the number of modalities, so that the shares add up to the logits.

    Args:
      features: mapping modality -> [batch, d_m], those that were fused.

    Returns:
      Mapping modality -> [batch, num_classes], in the order of `features`.

    Raises:
      ValueError: if there are hidden layers, which mix the modalities.
    """
    if self.hidden_widths:
      raise ValueError(
        f'ConcatFusion with hidden_widths={tuple(self.hidden_widths)} has no'
        " shares: its hidden layers mix the modalities. Use heads='auxiliary'"
        " or 'shapley', or no hidden layers."
      )
    dense = self.variables['params']['Dense_0']
    shares, start = {}, 0
    for name in sorted(features):
      value = features[name]
      stop = start + value.shape[-1]
      logits = value @ dense['kernel'][start:stop]
      bias = jnp.broadcast_to(dense['bias'] / len(features), logits.shape)
      shares[name], start = logits + bias, stop
    return {name: shares[name] for name in features}
