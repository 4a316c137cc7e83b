"""LeNet for AV-MNIST."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax.nn.encoders import _norms


class LeNet(nn.Module):
  """Convolutional blocks that halve the image and double the channels.

  Each block is a convolution, batch normalisation, ReLU and a 2x2 max-pool; the
  first convolution is 5x5, the others 3x3, all padded to keep the size and
  without biases. The result is flattened. This is MultiBench's encoder of
  AV-MNIST (Liang et al., arXiv 2107.07502). There, with 6 channels in the first
  block, images of 28x28 pass 4 blocks to 48 features, and spectrograms of
  112x112 pass 6 blocks to 192.

  Attributes:
    base_width: channels of the first block.
    num_blocks: the number of blocks.
    dtype: type to compute in, such as 'bfloat16'; None for the type of inputs
      and parameters. Parameters, statistics and features stay float32.
    axis_name: axis of `pmap` or `vmap` over which training averages the batch
      statistics; None keeps them apart on each device.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> encoder = nn.LeNet(base_width=6, num_blocks=4)
    >>> features, variables = jax.eval_shape(  # without the computation
    ...   encoder.init_with_output, jax.random.key(0), jnp.ones((32, 28, 28, 1))
    ... )
    >>> features.shape, sorted(variables)
    ((32, 48), ['batch_stats', 'params'])
  """

  base_width: int
  num_blocks: int
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
    """Encodes images.

    Args:
      inputs: [batch, height, width, channels].
      train: normalise by the statistics of this batch, and update the running
        ones, which must then be `mutable`.
      present: [batch], booleans: the rows that the statistics are of; None for
        all.

    Returns:
      Features [batch, d]: `base_width * 2**(num_blocks - 1)` channels times
      the pixels that are left.

    Raises:
      ValueError: if the inputs do not have four dimensions, or have too few
        pixels for the blocks to halve.
    """
    _arguments.check('LeNet', _arguments.whole(1), base_width=self.base_width)
    _arguments.check('LeNet', _arguments.whole(0), num_blocks=self.num_blocks)
    if inputs.ndim != 4 or min(inputs.shape[1:3]) < 2**self.num_blocks:
      raise ValueError(
        f'LeNet takes [batch, height, width, channels] with at least'
        f' {2**self.num_blocks} pixels a side for {self.num_blocks} blocks;'
        f' given {inputs.shape}.'
      )
    norm = _norms.batch_norm(train, self.dtype, self.axis_name)
    maps, mask = inputs, _norms.mask_of(present, inputs)
    for block in range(self.num_blocks):
      maps = nn.Conv(
        self.base_width * 2**block,
        (5, 5) if block == 0 else (3, 3),
        padding=2 if block == 0 else 1,
        use_bias=False,
        kernel_init=nn.initializers.he_uniform(),
        dtype=self.dtype,
      )(maps)
      maps = nn.relu(norm()(maps, mask=mask))
      maps = nn.max_pool(maps, (2, 2), (2, 2))
    return _numerics.at_least_float32(jnp.reshape(maps, (inputs.shape[0], -1)))
