"""Fusion by one head that all modalities share."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from mimo_jax.nn import _initializers
from mimo_jax.nn.fusion import _shares


class SharedHeadFusion(nn.Module):
  """Fusion by one dense layer for all modalities, weighted by certainty.

  With s_m the logits that the shared layer makes of the features z_m alone,

      logits = Σ_m w_m s_m,    w = softmax over m of -H(softmax(s_m))

  for each sample, so that a modality of less entropy H has more weight. MLA
  fuses in this way at test time (Zhang et al., arXiv 2311.10707); its weights,
  exp(max_j H_j - H_m) divided by their sum, are the same. MLA trains on the
  cross-entropy of each modality's own logits, which are `shares`, in turn
  (`mimo_jax.orthogonal_head`). Gradients of the fused logits pass through the
  weights, too.

  Attributes:
    num_classes: the number of logits.
    kernel_init: initialiser of the dense layer, or its name in
      `flax.linen.initializers`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features = {'audio': jnp.ones((4, 16)), 'visual': jnp.zeros((4, 16))}
    >>> fusion = nn.SharedHeadFusion(num_classes=10)
    >>> variables = fusion.init(jax.random.key(0), features)
    >>> variables['params']['head']['kernel'].shape
    (16, 10)
  """

  num_classes: int
  kernel_init: _initializers.Initializer | str = 'lecun_normal'

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d], all of one width, to logits.

    Args:
      features: mapping modality -> [batch, d].

    Returns:
      Logits [batch, num_classes].
    """
    return entropy_weighted(self.shares(features))

  @nn.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Each modality's own logits, from the shared layer.

    They are not weighted, and do not add up to the fused logits.

    Args:
      features: mapping modality -> [batch, d].

    Returns:
      Mapping modality -> [batch, num_classes].
    """
    widths = {name: value.shape[-1] for name, value in features.items()}
    if len(set(widths.values())) > 1:
      raise ValueError(
        f'SharedHeadFusion was given features of the widths {widths}; expected'
        ' one width, since all share a dense layer. Let the encoders end in'
        ' layers of equal width, or use SumFusion, which has one for each.'
      )
    head = nn.Dense(
      self.num_classes,
      kernel_init=_initializers.initializer(self.kernel_init),
      name='head',
    )
    return {name: head(value) for name, value in features.items()}


def entropy_weighted(logits: Mapping[str, jax.Array]) -> jax.Array:
  """The mean of several logits, weighted by how certain each is (MLA).

  For each sample it is Σ_m w_m s_m, w = softmax over m of -H(softmax(s_m)).

  Args:
    logits: mapping modality -> s_m, [batch, num_classes].

  Returns:
    Logits [batch, num_classes].

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> sure, unsure = jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> nn.entropy_weighted({'audio': sure, 'visual': unsure}).tolist()
    [[5.998, 0.0]]
  """
  stacked = _shares.in_order(logits)
  log_probabilities = nn.log_softmax(stacked)
  entropies = -jnp.sum(
    jnp.exp(log_probabilities) * log_probabilities, axis=-1, keepdims=True
  )
  return jnp.sum(nn.softmax(-entropies, axis=0) * stacked, axis=0)
