"""Matrix products in full precision, on every device."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

_Function = TypeVar('_Function', bound=Callable[..., Any])


def full_precision(function: _Function) -> _Function:
  """Makes a function compute its matrix products in full precision.

  By default, accelerators round the factors of a float32 matrix product to 8 or
  10 bits. For K x K problems this saves no time, and the result would have only
  two correct digits.
  """
  return jax.default_matmul_precision('highest')(function)
