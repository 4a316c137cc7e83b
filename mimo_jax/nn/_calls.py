"""Calls of a model's parts: what they are given, and what is refused."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn


def encode(
  options: Mapping[str, Any], encoder: nn.Module, value: jax.Array
) -> jax.Array:
  """Features of one modality."""
  encoded: jax.Array = encoder(value, **options)
  return encoded


def taken(function: Callable[..., Any], **offered: Any) -> dict[str, Any]:
  """Of the arguments that are there, those that a function has by name."""
  parameters = inspect.signature(function).parameters
  return {
    name: value
    for name, value in offered.items()
    if name in parameters and value is not None
  }


def check_widths(module: str, **widths: Any) -> None:
  """Refuses widths of layers, in sequences, that are none."""

  def is_width(value: Any) -> bool:
    is_whole = isinstance(value, int | np.integer)
    return is_whole and not isinstance(value, bool) and value >= 1

  for name, value in widths.items():
    if not isinstance(value, Sequence) or not all(map(is_width, value)):
      raise ValueError(
        f'{module} was given {name}={value!r}; expected a sequence of whole'
        ' numbers at least 1.'
      )


def check(
  encoders: Collection[str],
  frozen: Collection[str],
  inputs: Collection[str],
) -> None:
  """Refuses what cannot be fused."""
  if 'fused' in encoders:
    raise ValueError(
      "A modality is named 'fused', which is the name of the fused output;"
      f' encoders were given for {sorted(encoders)}.'
    )
  if unknown := sorted(set(frozen) - set(encoders)):
    raise ValueError(
      f'frozen has {unknown}; the modalities are {sorted(encoders)}.'
    )
  missing = sorted(set(encoders) - set(inputs))
  if missing:
    raise ValueError(
      f'The inputs lack {missing}: expected {sorted(encoders)}, given'
      f' {sorted(inputs)}. For a missing sensor give zeros, and say so by'
      ' `<modality>_present`.'
    )
