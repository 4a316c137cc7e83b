"""Reads pickles that hold data and nothing else."""

import codecs
import pathlib
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

_ARRAY: Any = np.zeros(1)
_NUMBER: Any = np.float64(0)
# What pickles of arrays call, by the names that NumPy 1 and 2 write.
_CALLED = {
  'multiarray._reconstruct': _ARRAY.__reduce__()[0],
  'multiarray.scalar': _NUMBER.__reduce__()[0],
  'numeric._frombuffer': _ARRAY.__reduce_ex__(5)[0],
}
_ALLOWED: dict[str, Any] = {
  'numpy.ndarray': np.ndarray,
  'numpy.dtype': np.dtype,
  **{
    f'numpy.{package}.{name}': function
    for package in ('core', '_core')
    for name, function in _CALLED.items()
  },
  # Bytes, in protocols that have none of their own.
  '_codecs.encode': codecs.encode,
  **{
    f'{package}.{kind.__name__}': kind
    for package in ('builtins', '__builtin__')
    for kind in (bytearray, bytes, complex, dict, frozenset, list, set, tuple)
  },
}


class _ForbiddenError(Exception):
  """A name that data does not need."""


class _Unpickler(pickle.Unpickler):
  """Knows the names in `_ALLOWED` alone, and imports nothing."""

  def find_class(self, module: str, name: str) -> Any:
    full_name = f'{module}.{name}'
    if full_name not in _ALLOWED:
      raise _ForbiddenError(full_name)
    return _ALLOWED[full_name]


def load(path: pathlib.Path) -> Any:
  """Reads a pickle of numbers, text, arrays and containers of Python.

  A pickle names functions for its reader to call, so a hostile one runs what it
  likes. This reader calls only what rebuilds arrays of NumPy (written by
  version 1 or 2) and the containers that are built in.

  Args:
    path: the file. Text in it that Python 2 wrote is read as ASCII or, if that
      fails, as Latin-1, without which Python 2's arrays cannot be read.

  Returns:
    What was pickled.

  Raises:
    ValueError: if the file names anything else, or is no whole pickle.

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
  try:
    try:
      return _load(path, 'ASCII')
    except UnicodeDecodeError:
      return _load(path, 'latin1')
  except _ForbiddenError as error:
    raise ValueError(
      f'{path} asks for {error}, which data does not need and which may run'
      ' code. Nothing but NumPy arrays and the containers of Python is read'
      ' from a pickle: get the published file, or, if you trust this one, save'
      ' its arrays in a new pickle.'
    ) from error
  except (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(
      f'{path} is empty, truncated or no pickle ({error}). Download it again.'
    ) from error


def _load(path: pathlib.Path, encoding: str) -> Any:
  with path.open('rb') as file:
    return _Unpickler(file, encoding=encoding).load()


def check_keys(value: Any, keys: Iterable[str], where: str) -> dict[Any, Any]:
  """Checks that something read is a dictionary that has some keys.

  Args:
    value: what was read.
    keys: what it must have.
    where: the file, and the place in it, for the error.

  Returns:
    The dictionary.

  Raises:
    ValueError: if it is none, or lacks a key.

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
