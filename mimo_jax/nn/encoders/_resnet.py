"""ResNets for images, spectrograms and the frames of a video."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax.nn import _batch_norm
from mimo_jax.nn.encoders import _norms


class ResNet18(nn.Module):
  """ResNet-18 without its classifier, layer for layer as torchvision's.

  He et al., arXiv 1512.03385: a 7x7 stem of stride 2, a 3x3 max-pool of stride
  2, four stages of two basic blocks with 1, 2, 4 and 8 times `width` channels,
  and the mean over height and width. The frames of a video are encoded one by
  one, as a larger batch, and averaged. This is the encoder of the field's
  audio-visual models, for spectrograms with one channel and frames with three.

  It equals PyTorch's in what ports often get wrong. Pads are 3 and 1 on both
  sides (Flax's 'SAME' is uneven at stride 2). Batch normalisation has epsilon
  1e-5 and keeps 0.9 of its running statistics (PyTorch's momentum 0.1).
  Convolutions have no biases, and start from Kaiming normal by fan-out. Names
  follow torchvision: its `layer1.0.conv1.weight` is the kernel of
  `layer1_0/conv1`, transposed, and `torchvision_variables` converts them. One
  thing differs: the batch variance that enters Flax's running variance is
  divided by n, that of PyTorch by n - 1.

  Attributes:
    width: channels of the stem and the first stage; the features have 8 times
      as many.
    dtype: type to compute in, such as 'bfloat16'; None for that of inputs and
      parameters. Parameters, statistics and features stay float32.
    axis_name: axis of `pmap` or `vmap` over which training averages the batch
      statistics; None for each device's own.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> encoder, frames = nn.ResNet18(), jnp.ones((2, 3, 64, 64, 3))
    >>> features, variables = jax.eval_shape(  # without the computation
    ...   encoder.init_with_output, jax.random.key(0), frames
    ... )
    >>> features.shape, sorted(variables)
    ((2, 512), ['batch_stats', 'params'])
  """

  width: int = 64
  dtype: DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
  ) -> jax.Array:
    """Encodes images or frames.

    Args:
      inputs: [batch, height, width, channels], or [batch, frames, height,
        width, channels].
      train: normalise by the statistics of this batch, and update the running
        ones, which must then be `mutable`.
      present: [batch], booleans: the rows that the statistics are of; None for
        all.

    Returns:
      Features [batch, 8 * width].
    """
    return _encoded(self, _BasicBlock, (2, 2, 2, 2), inputs, train, present)


class ResNet50(nn.Module):
  """ResNet-50 without its classifier, layer for layer as torchvision's.

  Like `ResNet18`, with 3, 4, 6 and 3 blocks of a 1x1, a 3x3 and a 1x1
  convolution, the last with 4 times the channels. The stride is in the 3x3, as
  in torchvision; in the paper it is not.

  Attributes:
    width: channels of the stem; the features have 32 times as many.
    dtype: as in `ResNet18`.
    axis_name: as in `ResNet18`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> features, _ = jax.eval_shape(
    ...   nn.ResNet50().init_with_output,
    ...   jax.random.key(0),
    ...   jnp.ones((2, 64, 64, 3)),
    ... )
    >>> features.shape
    (2, 2048)
  """

  width: int = 64
  dtype: DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
  ) -> jax.Array:
    """Encodes images or frames, as `ResNet18`: features [batch, 32 * width]."""
    return _encoded(self, _Bottleneck, (3, 4, 6, 3), inputs, train, present)


def _encoded(
  encoder: ResNet18 | ResNet50,
  make_block: Callable[..., nn.Module],
  blocks: Sequence[int],
  inputs: jax.Array,
  train: bool,
  present: jax.Array | None,
) -> jax.Array:
  """The stem, four stages, and the mean over height, width and frames."""
  width, name = encoder.width, type(encoder).__name__
  _arguments.check(name, _arguments.whole(1), width=width)
  if inputs.ndim not in (4, 5):
    raise ValueError(
      f'{name} takes [batch, height, width, channels] or'
      f' [batch, frames, height, width, channels]; given {inputs.shape}.'
    )
  conv = functools.partial(
    nn.Conv,
    use_bias=False,
    kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    dtype=encoder.dtype,
  )
  norm = _norms.batch_norm(train, encoder.dtype, encoder.axis_name)
  maps = inputs.reshape((-1, *inputs.shape[-3:]))
  mask = _norms.mask_of(present, maps)
  maps = conv(width, (7, 7), strides=2, padding=3, name='conv1')(maps)
  maps = nn.relu(norm(name='bn1')(maps, mask=mask))
  maps = nn.max_pool(maps, (3, 3), (2, 2), ((1, 1), (1, 1)))
  for stage, count in enumerate(blocks):
    for number in range(count):
      maps = make_block(
        width=width * 2**stage,
        stride=2 if stage > 0 and number == 0 else 1,
        conv=conv,
        norm=norm,
        name=f'layer{stage + 1}_{number}',
      )(maps, mask)
  features = jnp.mean(_numerics.at_least_float32(maps), (1, 2))
  # All frames are of one size, so this is the mean over time, height, width.
  return jnp.mean(
    features.reshape((inputs.shape[0], -1, features.shape[-1])), 1
  )


class _Block(nn.Module):
  """Convolutions beside a shortcut."""

  width: int
  stride: int
  conv: functools.partial[nn.Conv]
  norm: functools.partial[_batch_norm.BatchNorm]

  def _shortcut(
    self, inputs: jax.Array, maps: jax.Array, mask: jax.Array | None
  ) -> jax.Array:
    """The inputs, in the shape of the maps."""
    if inputs.shape == maps.shape:
      return inputs
    shape = maps.shape[-1], (1, 1)
    inputs = self.conv(*shape, strides=self.stride, name='downsample_0')(inputs)
    return self.norm(name='downsample_1')(inputs, mask=mask)


class _BasicBlock(_Block):
  """Two 3x3 convolutions beside a shortcut."""

  @nn.compact
  def __call__(self, inputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    conv, norm, stride = self.conv, self.norm, self.stride
    maps = conv(self.width, (3, 3), strides=stride, padding=1, name='conv1')(
      inputs
    )
    maps = nn.relu(norm(name='bn1')(maps, mask=mask))
    maps = conv(self.width, (3, 3), padding=1, name='conv2')(maps)
    maps = norm(name='bn2')(maps, mask=mask)
    return nn.relu(maps + self._shortcut(inputs, maps, mask))


class _Bottleneck(_Block):
  """A 3x3 convolution between two 1x1, beside a shortcut."""

  @nn.compact
  def __call__(self, inputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    conv, norm, stride = self.conv, self.norm, self.stride
    maps = conv(self.width, (1, 1), name='conv1')(inputs)
    maps = nn.relu(norm(name='bn1')(maps, mask=mask))
    maps = conv(self.width, (3, 3), strides=stride, padding=1, name='conv2')(
      maps
    )
    maps = nn.relu(norm(name='bn2')(maps, mask=mask))
    maps = conv(4 * self.width, (1, 1), name='conv3')(maps)
    maps = norm(name='bn3')(maps, mask=mask)
    return nn.relu(maps + self._shortcut(inputs, maps, mask))
