"""Batch normalisation like PyTorch's."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mimo_jax import _numerics
from mimo_jax.nn import _batch_norm


def batch_norm(
  train: bool, dtype: DTypeLike | None, axis_name: str | None
) -> functools.partial[_batch_norm.BatchNorm]:
  """Makes layers with PyTorch's epsilon, and its momentum of 0.1."""
  return functools.partial(
    _batch_norm.BatchNorm,
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    axis_name=axis_name,
  )


def mask_of(present: jax.Array | None, maps: jax.Array) -> jax.Array | None:
  """Which maps are of present rows, one or several frames of each."""
  if present is None:
    return None
  frames = maps.shape[0] // present.shape[0]
  return _numerics.for_each_row(jnp.repeat(present, frames), maps)
