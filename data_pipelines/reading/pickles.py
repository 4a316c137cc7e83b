"""Reads pickles of data, without running anything that they name.

A pickle is a program: it calls functions by name, and sets the states of the
objects that they return. Here Python's own `pickle` runs that program, with two
restrictions. Names are looked up in a table of a few functions of this module,
which stand for those that NumPy's pickles call. And states are checked before
they are set: NumPy itself would take numbers for pointers.
"""

import math
import pathlib
import pickle
import re
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO, ClassVar

import numpy as np

# Containers nested more deeply than this are refused.
_MOST_NESTED = 32
# Values for each byte of the file; a shared one counts wherever it occurs.
_MOST_PER_BYTE = 1000

# Types of arrays: booleans, integers, floats, bytes, text, and objects.
_TYPES = re.compile(r'(b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,8}|O[48]?)')


_ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None)})


class _ForbiddenError(Exception):
  """A pickle asks for something that data do not need."""


def load(path: pathlib.Path) -> Any:
  """Reads a pickle of numbers, text, arrays and Python's containers.

  It may be of any protocol, with arrays and numbers of NumPy 1 or 2. Text
  written by Python 2, and bytes of its arrays, are read as Latin-1.

  Raises:
    ValueError: if the file asks for anything else, or is not a whole pickle.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder) / 'a.pkl'
    ...   _ = path.write_bytes(pickle.dumps({'a': [1, 2.5]}))
    ...   load(path)
    {'a': [1, 2.5]}
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
    ...   path = pathlib.Path(folder) / 'a.pkl'
    ...   _ = path.write_bytes(pickle.dumps(print))
    ...   load(path)
    Traceback (most recent call last):
    ValueError: ...a.pkl asks for builtins.print, which data does not need ...
  """
  with path.open('rb') as file:
    return read(file, str(path))


def read(file: BinaryIO, name: str) -> Any:
  """Reads a pickle from an open file, as `load` does; errors give its name."""
  try:
    start = file.tell()
    value = _Unpickler(file, encoding='latin-1').load()
    _check_unfolded(value, _MOST_PER_BYTE * (file.tell() - start))
    return value
  except _ForbiddenError as error:
    raise ValueError(
      f'{name} asks for {error}, which data does not need and which may run'
      ' code. Nothing but NumPy arrays and the containers of Python is read'
      ' from a pickle: get the published file, or, if you trust this one, save'
      ' its arrays in a new pickle.'
    ) from error
  except Exception as error:  # bytes that are no pickle raise many kinds
    raise ValueError(
      f'{name} is empty, truncated or no pickle'
      f' ({str(error) or type(error).__name__}). Download it again.'
    ) from error


def _type(spec: str, align: int, copy: int) -> np.dtype[Any]:
  """Stands for `numpy.dtype`; the pickle then sets its byte order."""
  del align, copy
  if not _TYPES.fullmatch(spec):
    raise ValueError(f'the type {spec!r}')
  # A copy: else the state would be set in NumPy's own object.
  return np.dtype('O' if spec[0] == 'O' else spec, copy=True)


def _unfilled(*_: Any) -> np.ndarray[Any, Any]:
  """Stands for `_reconstruct`; the pickle then sets shape, type and values."""
  return np.empty(0, np.int8)


def _scalar(dtype: np.dtype[Any], raw: Any) -> Any:
  return _of_bytes(raw, dtype, ())[()]


def _from_buffer(
  raw: Any, dtype: Any, shape: Any, order: str, axes: Any = None
) -> np.ndarray[Any, Any]:
  if axes is None:
    return _of_bytes(raw, dtype, shape, order)
  return _of_bytes(raw, dtype, shape).transpose(axes)


def _encoded(text: str, encoding: str) -> bytes:
  """Stands for `_codecs.encode`, by which old protocols write bytes."""
  del encoding
  return text.encode('latin-1')


_FOUND: dict[str, Any] = {
  'numpy.ndarray': 'ndarray',  # an argument of `_reconstruct`, not used
  'numpy.dtype': _type,
  '_codecs.encode': _encoded,
  'builtins.bytes': lambda: b'',
  '__builtin__.bytes': lambda: b'',
  **{
    f'numpy.{package}.{name}': function
    for package in ('core', '_core')
    for name, function in (
      ('multiarray._reconstruct', _unfilled),
      ('multiarray.scalar', _scalar),
      ('numeric._frombuffer', _from_buffer),
    )
  },
}


# The Python version, because the one in C sets states itself and trusts the
# sizes that a pickle gives.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
  """Python's unpickler, restricted to names in `_FOUND` and checked states."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns the stand-in for a name; nothing is imported."""
    if f'{module}.{name}' not in _FOUND:
      raise _ForbiddenError(f'{module}.{name}')
    return _FOUND[f'{module}.{name}']

  def load_build(self) -> None:
    """Sets the state of the object on top of the stack, after checking it."""
    state = self.stack.pop()
    target = self.stack[-1]
    if isinstance(target, np.dtype):
      own: Any = target  # Only the byte order is taken from the pickle.
      own.__setstate__(target.newbyteorder(state[1]).__reduce__()[2])
    elif isinstance(target, np.ndarray):
      _, shape, dtype, is_fortran, values = state
      _set(target, shape, dtype, bool(is_fortran), values)
    else:
      raise _ForbiddenError(f'a state of {type(target).__name__}')

  def load_setitem(self) -> None:
    """Sets a key of a dictionary, and of nothing else."""
    _check_dictionary(self.stack[-3])
    super().load_setitem()

  def load_setitems(self) -> None:
    """Sets several keys of a dictionary, and of nothing else."""
    _check_dictionary(self.metastack[-1][-1])
    super().load_setitems()

  dispatch: ClassVar[dict[int, Any]] = {
    **_PythonUnpickler.dispatch,
    pickle.BUILD[0]: load_build,
    pickle.SETITEM[0]: load_setitem,
    pickle.SETITEMS[0]: load_setitems,
    # Reads the bytes before it allocates memory for them.
    pickle.BYTEARRAY8[0]: _PythonUnpickler.load_binbytes8,
  }


def _holds_objects(value: Any) -> bool:
  return isinstance(value, np.ndarray) and value.dtype.hasobject


def _check_dictionary(value: Any) -> None:
  if not isinstance(value, dict):
    raise ValueError(f'keys of a {type(value).__name__}')


def _set(
  array: Any, shape: Any, dtype: Any, is_fortran: bool, values: Any
) -> None:
  """Sets an array's shape, type and values; raises if they do not fit."""
  if dtype.kind != 'O':
    values = values.encode('latin-1') if isinstance(values, str) else values
    _of_bytes(values, dtype, shape)
  elif not isinstance(values, list) or len(values) != _length(shape):
    raise ValueError(f'objects of the shape {shape} that are not as many')
  elif any(map(_holds_objects, values)):
    # Freeing a long chain of them would overflow the C stack.
    raise ValueError('arrays of objects in an array of objects')
  array.__setstate__((1, shape, dtype, is_fortran, values))


def _of_bytes(
  raw: Any, dtype: Any, shape: Any, order: Any = 'C'
) -> np.ndarray[Any, Any]:
  """Makes an array of numbers or text from its bytes, without a copy."""
  raw = raw.encode('latin-1') if isinstance(raw, str) else raw  # of Python 2
  # Nothing but bytes: the buffer of an array may hold pointers to objects.
  if not isinstance(raw, bytes):
    raise ValueError(f'an array of the type {dtype.str} of no bytes')
  if len(raw) != _length(shape) * dtype.itemsize:
    raise ValueError(
      f'an array of the shape {shape} and type {dtype.str} of {len(raw)} bytes'
    )
  if dtype.kind == 'U' and raw:
    letters = np.frombuffer(raw, np.dtype('u4').newbyteorder(dtype.byteorder))
    if letters.max() > sys.maxunicode:
      raise ValueError('an array of text that is none')
  values = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
  return values.reshape(shape, order=order)


def _length(shape: Any) -> int:
  if not all(type(size) is int and size >= 0 for size in shape):
    raise ValueError(f'the shape {shape}')
  return math.prod(shape)


def _check_unfolded(value: Any, most: int) -> None:
  """Refuses values that are not data, nested too deep, or more than `most`.

  A pickle may put a container, which it writes once, in many places or in
  itself. Code that follows each reference, as NumPy does, would fill memory.
  """
  known: dict[int, tuple[int, int]] = {}

  def measure(one: Any, depth: int) -> tuple[int, int]:
    """Returns the depth of the nested containers, and how many values."""
    height, length = known.get(id(one), (1, 0))
    if depth + height > _MOST_NESTED:
      raise ValueError(f'containers in more than {_MOST_NESTED} others')
    if length:
      return height, length
    inside: Iterable[Any]
    if isinstance(one, np.ndarray):
      length, inside = one.size, one.flat if one.dtype.hasobject else ()
    elif isinstance(one, dict):
      length, inside = len(one), [*one, *one.values()]
    elif isinstance(one, (list, tuple, set, frozenset)):
      length, inside = len(one), one
    elif isinstance(one, (bytearray, np.generic)):
      return 0, 1
    else:
      raise ValueError(f'a {type(one).__name__} among data')
    found = [measure(i, depth + 1) for i in inside if type(i) not in _ATOMS]
    length += 1 + sum(length for _, length in found)
    if length > most:
      raise ValueError('it unfolds to more than a file of its length can hold')
    height = 1 + max((height for height, _ in found), default=0)
    known[id(one)] = height, length
    return height, length

  if type(value) not in _ATOMS:
    measure(value, 0)


def check_keys(value: Any, keys: Iterable[str], where: str) -> dict[Any, Any]:
  """Returns a value if it is a dictionary with these keys, else ValueError.

  Examples:
    >>> check_keys({'train': 1, 'other': 2}, ['train'], 'a.pkl')
    {'train': 1, 'other': 2}
    >>> check_keys({'train': 1}, ['train', 'test'], 'a.pkl')
    Traceback (most recent call last):
    ValueError: a.pkl has the keys train; expected train, test.
  """
  keys = list(keys)
  if not isinstance(value, dict):
    raise ValueError(
      f'{where} is of the type {type(value).__name__}; expected a dictionary'
      f'{" with the keys " if keys else ""}{", ".join(keys)}.'
    )
  if not set(keys) <= value.keys():
    raise ValueError(
      f'{where} has the keys {", ".join(map(str, value)) or "none"};'
      f' expected {", ".join(keys)}.'
    )
  return value
