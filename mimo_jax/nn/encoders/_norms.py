"""Batch normalisation like PyTorch's."""

import functools

from flax import linen as nn
from jax.typing import DTypeLike


def batch_norm(
  train: bool, dtype: DTypeLike | None, axis_name: str | None
) -> functools.partial[nn.BatchNorm]:
  """Makes layers with PyTorch's epsilon, and its momentum of 0.1."""
  return functools.partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    axis_name=axis_name,
  )
