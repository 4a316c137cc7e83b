"""Transformer encoder of sequences."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax.nn.encoders import _sequences

# The variances of PyTorch's kernels, by the width n of their input: 1/(3n) of
# a linear layer, and 1/(2n) of the query, key and value of self-attention,
# whose Xavier initialisation sees one matrix of n times 3n.
_LINEAR = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
_ATTENTION = nn.initializers.variance_scaling(1 / 2, 'fan_in', 'uniform')
_POOLINGS = ('last', 'first', 'mean')


class Transformer(nn.Module):
  """Transformer encoder: one step's output, or the mean over the steps.

  Vaswani et al., arXiv 1706.03762, with the defaults of PyTorch's
  `TransformerEncoder`: normalised after each residual, ReLU, dropout on
  attention weights and on each layer's results. A linear layer (a 1x1
  convolution in PyTorch) first projects the inputs to `width`. There is no
  positional encoding, so that the order of the steps matters only through the
  step that `pooling` picks. The published encoders have none, either:

  - BalanceBenchmark, CMU-MOSEI: width 1024, 2 layers, 4 heads, no bias in the
    projection, last step;
  - AGM, UR-FUNNY: width 768, 8 layers, 4 heads, a bias, first step;
  - MultiBench: 5 layers, 5 heads, last step.

  They attend to padding and may return its output. Here values beyond a
  sequence's length have no influence, even if they are NaN, and 'last' is the
  last valid step. A sequence of length 0 has features of zero. Kernels start
  with the variances of PyTorch's, and biases at zero.

  Attributes:
    width: the width of the features; a multiple of `num_heads`.
    num_layers: the number of layers.
    num_heads: heads of attention in each layer.
    feedforward_width: the width of each layer's hidden dense layer.
    dropout: the probability of dropping a value in training, which then needs
      a key named 'dropout'.
    pooling: 'last' or 'first' valid step, or 'mean' of the valid steps.
    use_bias: whether the projection of the inputs has a bias.
    dtype: type to compute in, such as 'bfloat16'; None for the type of inputs
      and parameters. Parameters, the attention's softmax and features stay
      float32.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> encoder = nn.Transformer(width=32, num_layers=2, num_heads=4)
    >>> features, _ = jax.jit(encoder.init_with_output)(
    ...   jax.random.key(0), jnp.ones((2, 20, 35)), length=jnp.array([20, 7])
    ... )
    >>> features.shape
    (2, 32)
  """

  width: int
  num_layers: int
  num_heads: int
  feedforward_width: int = 2048
  dropout: float = 0.1
  pooling: str = 'last'
  use_bias: bool = True
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    *,
    length: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Encodes sequences.

    Args:
      inputs: [batch, time, d].
      length: [batch], integers: the number of valid steps, which come first;
        None if all are.
      train: whether to drop values.

    Returns:
      Features [batch, width].

    Raises:
      ValueError: if the shapes are others, the lengths are not integers,
        `width` is no multiple of `num_heads`, or `pooling` is unknown.
    """
    _arguments.check(
      'Transformer',
      _arguments.whole(1),
      width=self.width,
      num_heads=self.num_heads,
      feedforward_width=self.feedforward_width,
    )
    _arguments.check(
      'Transformer', _arguments.whole(0), num_layers=self.num_layers
    )
    _arguments.check(
      'Transformer', _arguments.between(0, 1), dropout=self.dropout
    )
    if self.width % self.num_heads:
      raise ValueError(
        f'width={self.width} is no multiple of num_heads={self.num_heads}.'
      )
    valid = _sequences.valid_steps(inputs, length)
    inputs = _sequences.where_valid(valid, inputs)
    steps = nn.Dense(
      self.width,
      use_bias=self.use_bias,
      kernel_init=_LINEAR,
      dtype=self.dtype,
      name='projection',
    )(inputs)
    for layer in range(self.num_layers):
      steps = _EncoderLayer(
        num_heads=self.num_heads,
        feedforward_width=self.feedforward_width,
        dropout=self.dropout,
        dtype=self.dtype,
        name=f'layer_{layer}',
      )(steps, valid, train=train)
    return _pooled(valid, _numerics.at_least_float32(steps), self.pooling)


class _EncoderLayer(nn.Module):
  """Self-attention and a feed-forward network, each normalised after adding."""

  num_heads: int
  feedforward_width: int
  dropout: float
  dtype: DTypeLike | None

  @nn.compact
  def __call__(
    self, steps: jax.Array, valid: jax.Array, *, train: bool
  ) -> jax.Array:
    def drop(values: jax.Array) -> jax.Array:
      return nn.Dropout(self.dropout, deterministic=not train)(values)

    def dense(width: int, name: str) -> nn.Dense:
      return nn.Dense(width, kernel_init=_LINEAR, dtype=self.dtype, name=name)

    def norm(name: str) -> nn.LayerNorm:
      return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)

    attended = nn.MultiHeadDotProductAttention(
      num_heads=self.num_heads,
      dropout_rate=self.dropout,
      broadcast_dropout=False,
      deterministic=not train,
      kernel_init=_ATTENTION,
      out_kernel_init=_LINEAR,
      force_fp32_for_softmax=True,
      dtype=self.dtype,
      name='attention',
    )(steps, mask=valid[:, None, None, :])
    steps = norm('norm1')(steps + drop(attended))
    hidden = drop(nn.relu(dense(self.feedforward_width, 'linear1')(steps)))
    hidden = dense(steps.shape[-1], 'linear2')(hidden)
    return norm('norm2')(steps + drop(hidden))


def _pooled(valid: jax.Array, steps: jax.Array, pooling: str) -> jax.Array:
  """One vector a sequence, zeros of an empty one."""
  _arguments.check_choice('Transformer', _POOLINGS, pooling=pooling)
  if pooling == 'last':
    return _sequences.last_valid(valid, steps)
  if pooling == 'first':
    return _sequences.where_valid(valid[:, 0], steps[:, 0])
  count = jnp.maximum(jnp.sum(valid, 1, keepdims=True), 1)
  return jnp.sum(_sequences.where_valid(valid, steps), 1) / count
