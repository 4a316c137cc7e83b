"""Recurrent encoder of sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax.nn.encoders import _sequences


class GRU(nn.Module):
  """Gated recurrent unit: its state after the last valid step.

  Cho et al., arXiv 1406.1078, in PyTorch's form, where the reset gate acts on
  the product with the hidden state. The kernels start as Flax's do
  (orthogonal for the hidden state), not as PyTorch's. MultiBench's encoder of
  the modalities of UR-FUNNY and CMU-MOSEI.

  Values beyond a sequence's length have no influence, even if they are NaN. The
  features of a sequence of length 0 are the initial state, zero.

  Attributes:
    width: the width of the state, which is that of the features.
    dtype: type to compute in, such as 'bfloat16'; None for the type of inputs
      and parameters. Parameters, state and features stay float32.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> encoder = nn.GRU(width=64)
    >>> features, _ = jax.jit(encoder.init_with_output)(
    ...   jax.random.key(0), jnp.ones((2, 20, 35)), length=jnp.array([20, 7])
    ... )
    >>> features.shape
    (2, 64)
  """

  width: int
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
      train: changes nothing here.

    Returns:
      Features [batch, width].
    """
    del train
    _arguments.check('GRU', _arguments.whole(1), width=self.width)
    valid = _sequences.valid_steps(inputs, length)
    # Zeros, since 0 times NaN would make the gradient of the kernels NaN.
    inputs = _numerics.at_least_float32(_sequences.where_valid(valid, inputs))
    states: Any = nn.RNN(nn.GRUCell(self.width, dtype=self.dtype, name='cell'))(
      inputs,
      initial_carry=jnp.zeros((inputs.shape[0], self.width), inputs.dtype),
    )
    return _sequences.last_valid(valid, states)
