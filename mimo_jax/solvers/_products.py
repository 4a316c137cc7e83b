"""Matrix products in full precision, on every device."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

_Arguments = ParamSpec('_Arguments')
_Result = TypeVar('_Result')


def full_precision(
  function: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
  """Makes a function compute its matrix products in full precision.

  By default, accelerators round the factors of a float32 matrix product to 8 or
  10 bits. For K x K problems this saves no time, and the result would have only
  two correct digits.
  """

  @functools.wraps(function)
  def with_precision(
    *args: _Arguments.args, **kwargs: _Arguments.kwargs
  ) -> _Result:
    with jax.default_matmul_precision('highest'):
      return function(*args, **kwargs)

  return with_precision
