"""Pickles: data are read, nothing is run, memory stays safe."""

import io
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.reading import pickles

ROOT = pathlib.Path(__file__).parents[2]
# As Python 2 writes array([1.0, -2.5], 'f4') and a string with an accent.
OF_PYTHON_2 = (
  b"(dS'x'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt"
  b"S'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\n"
  b"I-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00 \\xc0'\ntbsS'y'\n"
  b"S'caf\\xe9'\ns."
)


def content():
  """Makes values of all types that the pickles of data sets have."""
  shared = np.arange(3, dtype=np.float32)
  several = [{'a': shared}, 3]
  return {
    'float': np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    'double': np.array([[-np.inf, 2.0], [np.nan, 4.0]]).T,
    'swapped': np.array([1, 256, -3], '>i4'),
    'truth': np.array([True, False]),
    'empty': np.zeros((0, 3), np.int64),
    'number': np.array(2.5),
    'text': np.array(['a', 'bcd', 'é']),
    'bytes': np.array([b'a_1', b'bcd']),
    'object': np.array([['a', 2, b'\xff'], [None, [1], shared]], object),
    'scalars': [np.float64(1.5), np.int64(-7), np.str_('a'), np.bytes_(b'b')],
    'rows': [shared, shared],
    'lists': [several, several, [several]],
    7: (b'', b'\x80', (), 1 << 40, -1, True, None, 0.25, 'ä€'),
    np.int64(8): {('a', 1): 'b'},
  }


def load(written):
  return pickles.read(io.BytesIO(written), 'a.pkl')


def assert_same(read, expected):
  assert type(read) is type(expected)
  if isinstance(expected, np.ndarray):
    assert (read.shape, read.dtype) == (expected.shape, expected.dtype)
    if expected.dtype.kind == 'O':
      assert_same(read.ravel().tolist(), expected.ravel().tolist())
    else:
      np.testing.assert_array_equal(read, expected)
  elif isinstance(expected, dict):
    assert list(read) == list(expected)
    for key in expected:
      assert_same(read[key], expected[key])
  elif isinstance(expected, list | tuple):
    for one, other in zip(read, expected, strict=True):
      assert_same(one, other)
  else:
    assert read == expected


def test_pickles_of_either_numpy_and_all_protocols_are_read():
  for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    written = pickle.dumps(content(), protocol)
    expected = pickle.loads(written)
    assert_same(load(written), expected)
    if protocol < 4:  # later ones give the length of the name
      for package in ('core', '_core'):
        name = f'numpy.{package}'.encode()
        renamed = re.sub(rb'numpy\._?core', name, written)
        assert_same(load(renamed), expected)


def test_arrays_and_text_of_python_2_are_read():
  read = load(OF_PYTHON_2)
  np.testing.assert_array_equal(read['x'], np.float32([1, -2.5]))
  assert read['y'] == 'café'
  # Protocol 2 stores the bytes of arrays and text as they are.
  binary = b'\x80\x02}(U\x01xU\x04caf\xe9u.'
  assert load(binary) == {'x': 'café'}


def test_a_hostile_pickle_is_not_run(tmp_path):
  class Hostile:
    def __reduce__(self):
      return pathlib.Path.touch, (tmp_path / 'ran',)

  written = pickle.dumps({'train': [Hostile()]})
  with pytest.raises(ValueError, match=r'a\.pkl asks for.*run code'):
    load(written)
  assert not (tmp_path / 'ran').exists()
  # The same file is run by Python's own unpickler.
  pickle.loads(written)
  assert (tmp_path / 'ran').exists()


# A type whose bytes are pointers: the state of dtype('O') without its flags.
TYPE = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI%d\ntb"
ARRAY = (
  b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
  b'(I1\n(I1\nt%sI00\n%stb.'
)
POINTER = b"S'\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08'\n"


def test_no_other_function_is_called_and_no_other_state_is_set():
  for code in (
    b"cos\nsystem\n(S'true'\ntR.",
    b"cbuiltins\neval\n(S'1'\ntR.",
    b"cnumpy\nload\n(S'/dev/null'\ntR.",
    b'cnumpy.core.multiarray\n_reconstruct.__globals__\n.',
    b'\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.',
    b"(S'true'\nios\nsystem\n.",  # INST
    b'\x80\x02cos\nsystem\n)\x81.',  # NEWOBJ
    b'}}b.',  # a state of a dictionary
    b'cnumpy\ndtype\n}b.',  # of a function
  ):
    with pytest.raises(ValueError, match='may run code'):
      load(code)
  for code in (
    b'cnumpy\nndarray\n)\x81.',  # NEWOBJ
    b"S'a'\nQ.",  # BINPERSID
    b'\x82\x01.',  # EXT1
    b"]S'a'\n(tR.",  # a call of a list
  ):
    with pytest.raises(ValueError, match='no pickle'):
      load(code)


def test_types_and_arrays_accept_only_states_that_numpy_writes():
  whole = ARRAY % (TYPE % 63, b"(lS'a'\na")
  # Only the byte order is taken from the state of a type.
  for code in (whole, ARRAY % (TYPE % 0, b"(lS'a'\na")):
    assert load(code).tolist() == ['a']
  assert np.dtype('O').flags == 63
  for code in (
    ARRAY % (TYPE % 0, POINTER),  # bytes for objects: they would be pointers
    ARRAY % (TYPE % 63, POINTER),
    whole.replace(b'(I1\nt', b'(I2\nt'),  # more objects than there are
    ARRAY % (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR", POINTER),
    ARRAY % (b"cnumpy\ndtype\n(S'S0'\nI0\nI1\ntR", b"S''\n"),
    ARRAY % (b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR", POINTER),  # too long
    ARRAY % (b"cnumpy\ndtype\n(S'i4,O'\nI0\nI1\ntR", POINTER),
    (ARRAY % (b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR", POINTER)).replace(
      b'(I1\nt', b'(I-1\nI-1\nt'
    ),
    b'cnumpy.core.multiarray\nscalar\n(' + TYPE % 63 + POINTER + b'tR.',
  ):
    with pytest.raises(ValueError, match=r'a\.pkl is empty, truncated or no'):
      load(code)
  # No array is made from another's buffer, which may hold pointers.
  with pytest.raises(ValueError, match='of no bytes'):
    load(ARRAY % (b"cnumpy\ndtype\n(S'i1'\nI0\nI1\ntR", whole[:-1]))


def test_lengths_and_marks_in_the_file_are_not_trusted():
  for code, message in (
    (b'\x80\x05\x8e' + (2**40).to_bytes(8, 'little') + b'abc.', 'truncated'),
    (b'\x80\x05\x96' + (2**40).to_bytes(8, 'little') + b'abc.', 'truncated'),
    (b'\x8b' + (2**30).to_bytes(4, 'little') + b'1.', 'truncated'),
    (b'Nr' + (2**31).to_bytes(4, 'little') + b'(.', 'no pickle'),
    (b'](a.', 'no pickle'),  # a mark is none
    (
      pickle.dumps(np.array(['a'])).replace(b'a\0\0\0', b'a\0\x11\0'),
      'text that is none',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      load(code)


def test_depth_and_number_of_values_are_bounded():
  thousand = [[0] * 1000]
  for _ in range(9):
    thousand = [thousand] * 1000
  own = []
  own.append(own)
  deep = np.empty(1, object)
  for _ in range(3):
    outer = np.empty(1, object)
    outer[0] = deep
    deep = outer
  array = pickle.dumps(np.array([None]))[:-1]
  for code, message in (
    (b'(' * 10**6 + b't' * 10**6 + b'.', 'in more than 32'),
    (b']' * 10**6 + b'a' * (10**6 - 1) + b'.', 'in more than 32'),
    (b'N' + b'\x85' * 33 + b'.', 'in more than 32'),
    (pickle.dumps(own), 'in more than 32'),
    (pickle.dumps(thousand), 'unfolds to more'),
    (pickle.dumps([np.zeros(10**4)] * 10**5), 'unfolds to more'),
    (pickle.dumps(deep), 'objects in an array of objects'),
    (array + b'K\x00]s.', 'keys of a ndarray'),
    (array + b'(K\x00]u.', 'keys of a ndarray'),
    (b'cnumpy\ndtype\n.', 'function among data'),
  ):
    with pytest.raises(ValueError, match=message):
      load(code)
  assert load(b'N' + b'\x85' * 32 + b'.') is not None
  shared = [[0.5] * 100] * 2
  assert load(pickle.dumps(shared)) == shared


def test_damaged_pickles_are_refused():
  whole = pickle.dumps(content())
  for length in range(len(whole)):
    with pytest.raises(ValueError, match=r'a\.pkl'):
      load(whole[:length])


# Reads mutated pickles, which may be refused; prints a line at the end.
FUZZ = """
import io, pickle, random, sys
from data_pipelines.reading import pickles
from tests.data_pipelines import test_pickles

random.seed(int(sys.argv[1]))
content = test_pickles.content()
# The whole, and each entry alone: mutations hit more of a short pickle.
wholes = [content, *({name: value} for name, value in content.items())]
sources = [pickle.dumps(whole, n) for whole in wholes for n in range(6)]
sources += [test_pickles.OF_PYTHON_2]
read = 0
for _ in range(int(sys.argv[2])):
  code = bytearray(random.choice(sources))
  for _ in range(random.choice([1, 1, 2, 4, 16])):
    place = random.randrange(len(code))
    kind = random.randrange(4)
    if kind == 0:
      code[place] = random.randrange(256)
    elif kind == 1:
      code[place] ^= 1 << random.randrange(8)
    elif kind == 2:
      del code[place:place + random.randrange(1, 9)]
    else:
      other = random.choice(sources)
      begin = random.randrange(len(other))
      code[place:place] = other[begin:begin + random.randrange(1, 40)]
    code = code or bytearray(b'.')
  try:
    repr(pickles.read(io.BytesIO(code), 'a.pkl'))
    read += 1
  except ValueError as error:
    assert 'a.pkl' in str(error)
print('read', read)
"""


def fuzz(seed, count):
  result = subprocess.run(
    [sys.executable, '-c', FUZZ, str(seed), str(count)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr[-2000:]
  # Some mutations only change numbers; most are refused.
  assert 0.02 * count < int(result.stdout.split()[1]) < 0.9 * count


@pytest.mark.quick
def test_no_mutation_of_a_pickle_ends_the_process():
  fuzz(seed=1, count=2000)


@pytest.mark.slow
def test_none_of_100_000_mutations_of_a_pickle_ends_the_process():
  fuzz(seed=2, count=100_000)
