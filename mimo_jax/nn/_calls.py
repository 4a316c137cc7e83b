"""Calls of a model's parts: their arguments, and checks of inputs."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn


def encode(
  options: Mapping[str, Any], encoder: nn.Module, value: jax.Array
) -> jax.Array:
  """Computes the features of one modality."""
  encoded: jax.Array = encoder(value, **options)
  return encoded


# What is told of a modality, in an input of its name and this word.
_BESIDES = ('length', 'present')


def taken(function: Callable[..., Any], **offered: Any) -> dict[str, Any]:
  """Selects the arguments that a function takes and that are not None."""
  parameters = inspect.signature(function).parameters
  return {
    name: value
    for name, value in offered.items()
    if name in parameters and value is not None
  }


def check_widths(module: str, **widths: Any) -> None:
  """Raises unless widths of layers are sequences of whole numbers above 0."""

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
  """Raises if modalities have a wrong name, or inputs are missing."""
  if not encoders:
    raise ValueError('LateFusion was given no encoders; expected at least one.')
  besides = {f'{name}_{word}' for name in encoders for word in _BESIDES}
  if taken_names := sorted(besides & set(encoders)):
    raise ValueError(
      f'Modalities are named {taken_names}, which are inputs beside those of'
      f' another modality; encoders were given for {sorted(encoders)}.'
    )
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
