"""Late fusion of one encoder for each modality."""

from collections.abc import Callable, Mapping

import jax
from flax import linen as nn
from jax import lax

from mimo_jax.nn import _fusion


class LateFusion(nn.Module):
  """Late fusion: an encoder a modality, fused logits, and uni-modal logits.

  Each modality has a linear head of its own beside the fusion, so that its
  encoder can be trained and judged alone. Late fusion makes the Jacobian of
  the losses block-sparse, which `mimo_jax.value_and_jacobian` uses.

  Attributes:
    encoders: mapping modality -> Flax module from that modality's input to
      features [batch, d].
    num_classes: the number of logits of each output.
    fusion: class of the fusion, made with `num_classes`: `ConcatFusion`,
      `SumFusion`, or a module of one's own from a mapping of features to
      logits.
    detach_heads: stop gradients between the encoders and the uni-modal heads.
      Then a joint-trained model's uni-modal accuracy can be read (train on the
      sum of all losses) and the encoders learn from the fused loss alone.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> model = nn.LateFusion(
    ...   encoders={'audio': nn.MLP((64, 32)), 'visual': nn.MLP((128, 64))},
    ...   num_classes=10,
    ... )
    >>> inputs = {'audio': jnp.ones((8, 40)), 'visual': jnp.ones((8, 90))}
    >>> logits, variables = model.init_with_output(jax.random.key(0), inputs)
    >>> {name: value.shape for name, value in sorted(logits.items())}
    {'audio': (8, 10), 'fused': (8, 10), 'visual': (8, 10)}
  """

  encoders: Mapping[str, nn.Module]
  num_classes: int
  fusion: Callable[..., nn.Module] = _fusion.ConcatFusion
  detach_heads: bool = False

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Logits of the fusion and of each modality.

    Args:
      inputs: mapping modality -> array [batch, ...]; entries that are not
        modalities (labels, say) are ignored.

    Returns:
      `{'fused': [batch, num_classes], modality: [batch, num_classes], ...}`.

    Raises:
      ValueError: if an input is missing, or a modality is named 'fused'.
    """
    if 'fused' in self.encoders:
      raise ValueError(
        "A modality is named 'fused', which is the name of the fused output;"
        f' encoders were given for {sorted(self.encoders)}.'
      )
    missing = sorted(set(self.encoders) - set(inputs))
    if missing:
      raise ValueError(
        f'The inputs lack {missing}: expected {sorted(self.encoders)}, given'
        f' {sorted(inputs)}. For a missing sensor give zeros.'
      )
    features = {
      name: encoder(inputs[name]) for name, encoder in self.encoders.items()
    }
    logits = {'fused': self.fusion(self.num_classes, name='fusion')(features)}
    for name, value in features.items():
      head = nn.Dense(self.num_classes, name=f'heads_{name}')
      logits[name] = head(
        lax.stop_gradient(value) if self.detach_heads else value
      )
    return logits
