"""Initialisers of kernels, by function or by name."""

from collections.abc import Callable

import jax
from flax import linen as nn

Initializer = Callable[..., jax.Array]


def initializer(kernel_init: Initializer | str) -> Initializer:
  """The initialiser itself, or the one that a name stands for.

  A name is that of a function of `flax.linen.initializers` that needs no
  arguments: 'lecun_normal' (the default of Flax's dense layers),
  'glorot_normal' (audio-visual models of OGM-GE and PMR), 'he_uniform', ...
  """
  if not isinstance(kernel_init, str):
    return kernel_init
  try:
    return getattr(nn.initializers, kernel_init)()
  except (AttributeError, TypeError) as error:
    raise ValueError(
      f'kernel_init={kernel_init!r}: expected the name of a function of'
      " flax.linen.initializers that needs no arguments ('lecun_normal',"
      " 'glorot_normal', 'he_uniform', ...), or an initialiser itself."
    ) from error
