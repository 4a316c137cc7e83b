"""What pickles tell of NumPy's arrays, types and numbers: read and checked.

NumPy's own functions for it set states without looking at them; a pickle could
turn numbers into pointers. Here a state is compared with what NumPy writes, and
arrays are made of bytes, or of objects that have been read before.
"""

import enum
import math
import re
import sys
from typing import Any

import numpy as np

# Booleans, integers, floats, bytes, text; object arrays have their own rule.
_NUMBERS = re.compile(r'(b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,8})')
_OBJECTS = re.compile(r'O[48]?')
# Version, byte order; then what only records and dates have; size, alignment
# and flags. NumPy writes the flag 8 for text since its version 2.
_TEXT_FLAGS = (0, 8)


class ForbiddenError(Exception):
  """A pickle asks for something that data does not need."""


class Function(enum.Enum):
  """What a pickle may name, to be called or as an argument."""

  RECONSTRUCT = enum.auto()  # an array that gets its values later
  FROM_BUFFER = enum.auto()
  SCALAR = enum.auto()
  TYPE = enum.auto()
  ARRAY = enum.auto()
  ENCODE = enum.auto()  # bytes, in protocols that have none of their own
  BYTES = enum.auto()


_FUNCTIONS = {
  'numpy.ndarray': Function.ARRAY,
  'numpy.dtype': Function.TYPE,
  '_codecs.encode': Function.ENCODE,
  'builtins.bytes': Function.BYTES,
  '__builtin__.bytes': Function.BYTES,
  **{
    f'numpy.{package}.{name}': function
    for package in ('core', '_core')
    for name, function in (
      ('multiarray._reconstruct', Function.RECONSTRUCT),
      ('multiarray.scalar', Function.SCALAR),
      ('numeric._frombuffer', Function.FROM_BUFFER),
    )
  },
}


class Unfinished:
  """A type or an array between its call and its state.

  Attributes:
    value: The type, which its state may change; or the array, None until it
      has its state.
  """

  def __init__(self, value: Any = None) -> None:
    self.value = value


def function(module: str, name: str) -> Function:
  """Returns what a pickle names; nothing is imported.

  Raises:
    ForbiddenError: if data do not need it.
  """
  full_name = f'{module}.{name}'
  if full_name not in _FUNCTIONS:
    raise ForbiddenError(full_name)
  return _FUNCTIONS[full_name]


def called(named: Any, arguments: Any) -> Any:
  """Returns what a call of a `Function` gives.

  Returns:
    Bytes, a number or array of NumPy, or an `Unfinished`.

  Raises:
    ForbiddenError: if it is no such function.
    ValueError: if the arguments are not those that NumPy writes.
  """
  match named, arguments:
    case Function.ENCODE, (str(text), 'latin1' | 'latin-1'):
      return text.encode('latin-1')
    case Function.BYTES, ():
      return b''
    case Function.TYPE, (str(spec), 0 | 1, 0 | 1):
      if _NUMBERS.fullmatch(spec) or _OBJECTS.fullmatch(spec):
        return Unfinished(np.dtype('O' if spec[0] == 'O' else spec))
    case Function.RECONSTRUCT, (Function.ARRAY, (0,), b'b' | 'b'):
      return Unfinished()
    case Function.SCALAR, (Unfinished(value=np.dtype() as dtype), raw):
      return _of_bytes(raw, dtype, ())[()]
    case Function.FROM_BUFFER, (
      bytes(raw),
      Unfinished(value=np.dtype() as dtype),
      tuple(shape),
      'C' | 'F' as order,
    ):
      return _of_bytes(raw, dtype, shape, order)
    case Function.FROM_BUFFER, (
      bytes(raw),
      Unfinished(value=np.dtype() as dtype),
      tuple(shape),
      'K',
      tuple(axes),
    ):
      return _of_bytes(raw, dtype, shape).transpose(axes)
    case Function(), _:
      pass
    case _:
      raise ForbiddenError(f'a call of {type(named).__name__}')
  raise ValueError(f'{named.name} of other arguments than NumPy writes')


def build(target: Any, state: Any) -> Any:
  """Gives a type or an array, which was called, its state.

  Returns:
    The type, still as an `Unfinished`, or the array.

  Raises:
    ForbiddenError: if the target is something else.
    ValueError: if the state is not one that NumPy writes.
  """
  if not isinstance(target, Unfinished):
    raise ForbiddenError(f'a state of {type(target).__name__}')
  match target.value, state:
    case np.dtype() as dtype, (
      int(version),
      '<' | '>' | '|' | '=' as order,
      *rest,
    ):
      expected = list(dtype.__reduce__()[2])
      flags = _TEXT_FLAGS if dtype.kind == 'U' else (expected[-1],)
      if (
        version != expected[0]
        or rest[:-1] != expected[2:-1]
        or rest[-1] not in flags
        or any(isinstance(each, float) for each in rest)
      ):
        raise ValueError(f"another state of the type {dtype.str} than NumPy's")
      target.value = dtype if order == '|' else dtype.newbyteorder(order)
      return target
    case None, (
      1,
      tuple(shape),
      Unfinished(value=np.dtype() as dtype),
      0 | 1 as is_fortran,
      values,
    ):
      if dtype.kind == 'O':
        target.value = _of_objects(values, shape)
      else:
        target.value = _of_bytes(
          values, dtype, shape, 'F' if is_fortran else 'C'
        )
      return target.value
  raise ValueError('a state of an array that is not as NumPy writes it')


def _of_bytes(
  raw: Any, dtype: np.dtype[Any], shape: Any, order: Any = 'C'
) -> np.ndarray[Any, Any]:
  """Makes an array of numbers or text of its bytes, without copying them."""
  if isinstance(raw, str):  # bytes of Python 2
    raw = raw.encode('latin-1')
  if dtype.kind == 'O' or not isinstance(raw, bytes):
    raise ValueError(f'an array of the type {dtype.str} of no bytes')
  if len(raw) != _length(shape) * dtype.itemsize:
    raise ValueError(
      f'an array of the shape {shape} and type {dtype.str} of {len(raw)} bytes'
    )
  if not raw:
    return np.empty(shape, dtype)
  if (
    dtype.kind == 'U'
    and np.frombuffer(raw, np.dtype('u4').newbyteorder(dtype.byteorder)).max()
    > sys.maxunicode
  ):
    raise ValueError('an array of text that is none')
  return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _of_objects(values: Any, shape: Any) -> np.ndarray[Any, Any]:
  """Makes an array of objects that have been read, in the order of C."""
  if not isinstance(values, list) or len(values) != _length(shape):
    raise ValueError(
      f'an array of objects of the shape {shape} of other values'
    )
  array = np.empty(len(values), object)
  for index, value in enumerate(values):
    array[index] = value
  return array.reshape(shape)


def _length(shape: Any) -> int:
  if not all(type(size) is int and size >= 0 for size in shape):
    raise ValueError(f'the shape {shape}')
  return math.prod(shape)
