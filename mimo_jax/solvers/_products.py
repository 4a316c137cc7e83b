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
  """The function, with all bits of the numbers that it multiplies.

  Accelerators round the factors of a float32 matrix product to 8 or 10 bits
  unless told otherwise. Of a K x K program nothing is gained by that, and its
  answer would be right to two digits.
  """

  @functools.wraps(function)
  def with_precision(
    *args: _Arguments.args, **kwargs: _Arguments.kwargs
  ) -> _Result:
    with jax.default_matmul_precision('highest'):
      return function(*args, **kwargs)

  return with_precision
