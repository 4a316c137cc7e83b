"""Reads pickles that hold data, without running them.

A pickle is a program for a machine that calls what the program names and sets
the states of what comes out: it can run code, and break memory. Here that
machine does not run. The instructions are read one by one, as `pickletools`
takes them apart, and only those are followed that write numbers, text, lists,
tuples, dictionaries and NumPy's arrays; all others are refused.
"""

import codecs
import io
import pathlib
import pickletools
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data_pipelines.reading import pickled_arrays

# What is nested deeper is no data, and could exhaust the stack of C where it is
# freed, shown or made an array of.
_DEEPEST = 32
# Values that can be reached from the whole, shared ones as often as they are,
# for each byte of the file: a small file must not unfold to fill the memory.
_MOST_PER_BYTE = 1000
_LARGEST = 2**64


def _read_text_of_python_2(file: BinaryIO) -> str:
  """Reads a string in quotes; `pickletools` knows those of ASCII alone."""
  line = file.readline()
  quoted = line.rstrip(b'\n')
  if (
    len(quoted) < 2
    or quoted[:1] not in (b"'", b'"')
    or not (line.endswith(quoted[:1] + b'\n'))
  ):
    raise ValueError('a string without quotes')
  text, _ = codecs.escape_decode(quoted[1:-1])
  return text.decode('latin-1')


# Code -> name, and what reads the argument that follows, if one does.
_INSTRUCTIONS: dict[bytes, tuple[str, Any]] = {
  each.code.encode('latin-1'): (each.name, each.arg and each.arg.reader)
  for each in pickletools.opcodes
}
_INSTRUCTIONS[b'S'] = 'STRING', _read_text_of_python_2

_MARK = object()
_ATOMS = frozenset([bool, int, float, str, bytes, type(None)])
# Instructions whose argument is the value that they write.
_WRITE = frozenset(
  [
    *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'),
    *('FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
    *('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
    *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
  ]
)
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_REMEMBER = frozenset(['PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'])
_RECALL = frozenset(['GET', 'BINGET', 'LONG_BINGET'])
_TUPLES = {'EMPTY_TUPLE': 0, 'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class _Size(NamedTuple):
  """How much can be reached from a value, and in how many steps."""

  values: int
  depth: int


_NUMBER = _Size(1, 0)


def load(path: pathlib.Path) -> Any:
  """Reads a pickle of numbers, text, arrays and containers of Python.

  Args:
    path: The file, of any protocol. Text that Python 2 wrote is read as
      Latin-1, as its arrays are.

  Returns:
    What was pickled: None, numbers, str, bytes, lists, tuples, dictionaries and
    NumPy's arrays and numbers, written by its version 1 or 2. Arrays of numbers
    cannot be written to.

  Raises:
    ValueError: if the file asks for anything else, is no whole pickle, or holds
      something that is nested too deep or unfolds to too much.

  Examples:
    >>> import pickle
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
  """Reads, as `load` does, a file that holds a pickle and nothing else."""
  num_bytes = file.seek(0, io.SEEK_END)
  file.seek(0)
  try:
    return _Reader(file, num_bytes).read()
  except pickled_arrays.ForbiddenError as error:
    raise ValueError(
      f'{name} asks for {error}, which data does not need and which may run'
      ' code. Nothing but NumPy arrays and the containers of Python is read'
      ' from a pickle: get the published file, or, if you trust this one, save'
      ' its arrays in a new pickle.'
    ) from error
  except (
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
  ) as e:
    raise ValueError(
      f'{name} is empty, truncated or no pickle ({str(e) or type(e).__name__}).'
      ' Download it again.'
    ) from e


class _Reader:
  """Follows the instructions of a pickle.

  A list or dictionary is open until it becomes a part of something or is
  recalled. Then it is measured, and can get no more items: so nothing holds
  itself, and all stays as it was when it was measured.

  Args:
    file: The file, which is read once from its start to its end.
    num_bytes: Its length.
  """

  def __init__(self, file: Any, num_bytes: int) -> None:
    self._file = file
    self._most = _MOST_PER_BYTE * num_bytes
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    # Of what is finished and no atom, by its id, and that itself: as long as it
    # is kept, nothing else has this id.
    self._sizes: dict[int, tuple[_Size, Any]] = {}

  def read(self) -> Any:
    """Returns the value that the instructions make."""
    while True:
      code = self._file.read(1)
      if code not in _INSTRUCTIONS:
        raise ValueError(f'{code!r} is no instruction')
      name, reader = _INSTRUCTIONS[code]
      argument = reader and reader(self._file)
      if name in _WRITE:
        self._stack.append(_checked(argument))
      elif name in _REMEMBER:
        key = len(self._memo) if name == 'MEMOIZE' else argument
        self._memo[key] = self._stack[-1]
      elif name in _RECALL:
        self._stack.append(self._recalled(argument))
      elif name in _CONSTANTS:
        self._stack.append(_CONSTANTS[name])
      elif name == 'STOP':
        (value,) = self._stack
        self._finish_all([value])
        return value
      elif name not in ('PROTO', 'FRAME'):
        self._make(name, argument)

  def _make(self, name: str, argument: Any) -> None:
    """Follows an instruction that makes something of what is on the stack."""
    stack = self._stack
    if name == 'MARK':
      stack.append(_MARK)
    elif name == 'EMPTY_LIST':
      stack.append([])
    elif name == 'EMPTY_DICT':
      stack.append({})
    elif name in _TUPLES:
      stack.append(self._tuple(self._popped(_TUPLES[name])))
    elif name == 'TUPLE':
      stack.append(self._tuple(self._since_mark()))
    elif name == 'LIST':
      stack.append(self._since_mark())
    elif name == 'DICT':
      items = self._since_mark()
      stack.append({})
      self._update(items)
    elif name == 'APPEND':
      self._extend(self._popped(1))
    elif name == 'APPENDS':
      self._extend(self._since_mark())
    elif name == 'SETITEM':
      self._update(self._popped(2))
    elif name == 'SETITEMS':
      self._update(self._since_mark())
    elif name == 'GLOBAL':
      stack.append(pickled_arrays.function(*argument.split(' ', 1)))
    elif name == 'STACK_GLOBAL':
      stack.append(pickled_arrays.function(*self._popped(2)))
    elif name == 'REDUCE':
      stack.append(pickled_arrays.called(*self._popped(2)))
    elif name == 'BUILD':
      target, state = self._popped(2)
      stack.append(pickled_arrays.build(target, state))
    else:
      raise pickled_arrays.ForbiddenError(f'the instruction {name}')

  def _popped(self, count: int) -> list[Any]:
    """Takes values off the stack, the last one last."""
    if count > len(self._stack):
      raise ValueError('an instruction lacks its values')
    first = len(self._stack) - count
    values = self._stack[first:]
    if any(value is _MARK for value in values):
      raise ValueError('an instruction lacks its values')
    del self._stack[first:]
    return values

  def _since_mark(self) -> list[Any]:
    """Takes the values off the stack that were put there after a mark."""
    values = []
    while (value := self._stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]

  def _recalled(self, key: int) -> Any:
    value = self._memo[key]
    if type(value) in (list, dict):
      self._size(value)
    if isinstance(value, pickled_arrays.Unfinished) and isinstance(
      value.value, np.ndarray
    ):
      return value.value
    return value

  def _tuple(self, items: list[Any]) -> tuple[Any, ...]:
    value = tuple(items)
    if all(self._is_value(item) for item in items):
      self._finish(value, len(value), items)
    elif any(
      type(item) is tuple and id(item) not in self._sizes for item in items
    ):
      raise ValueError(
        'names, types or arrays without values in a tuple in one'
      )
    return value  # If not finished, it can only be arguments or a state.

  def _extend(self, items: list[Any]) -> None:
    target = self._open(list)
    self._finish_all(items)
    target.extend(items)

  def _update(self, items: list[Any]) -> None:
    target = self._open(dict)
    self._finish_all(items)
    target.update(zip(items[::2], items[1::2], strict=True))

  def _open(self, kind: type) -> Any:
    target = self._stack[-1]
    if type(target) is not kind or id(target) in self._sizes:
      raise ValueError(f'items for something that is no open {kind.__name__}')
    return target

  def _is_value(self, item: Any) -> bool:
    """Tells what may be in data from names, types and arguments of calls."""
    return (
      type(item) in _ATOMS
      or type(item) in (list, dict)
      or isinstance(item, np.generic | np.ndarray)
      or id(item) in self._sizes
    )

  def _size(self, value: Any) -> _Size:
    """Measures a value that is no atom, which is finished by that."""
    if isinstance(value, np.generic):
      return _NUMBER
    if id(value) in self._sizes:
      return self._sizes[id(value)][0]
    if isinstance(value, np.ndarray):
      inside = value.ravel().tolist() if value.dtype.kind == 'O' else []
      return self._finish(value, value.nbytes, inside)
    if type(value) is list:
      return self._finish(value, len(value), value)
    if type(value) is dict:
      return self._finish(value, len(value), [*value, *value.values()])
    raise ValueError('a name, a type or an array without values among data')

  def _finish_all(self, items: Iterable[Any]) -> list[_Size]:
    return [self._size(item) for item in items if type(item) not in _ATOMS]

  def _finish(self, value: Any, values: int, items: Iterable[Any]) -> _Size:
    sizes = self._finish_all(items)
    size = _Size(
      values + sum(each.values for each in sizes),
      1 + max((each.depth for each in sizes), default=0),
    )
    if size.depth > _DEEPEST:
      raise ValueError(f'containers in more than {_DEEPEST} others')
    if size.values > self._most:
      raise ValueError('it unfolds to more than a file of its length can hold')
    self._sizes[id(value)] = size, value
    return size


def _checked(value: Any) -> Any:
  if isinstance(value, bytearray):
    return bytes(value)
  if type(value) is int and abs(value) >= _LARGEST:
    raise ValueError('an integer of more than 64 bits')
  return value


def check_keys(value: Any, keys: Iterable[str], where: str) -> dict[Any, Any]:
  """Returns what was read if it is a dictionary that has some keys.

  Raises:
    ValueError: if not; it tells `where`.

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
