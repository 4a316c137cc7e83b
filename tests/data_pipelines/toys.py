"""Small sources for tests of the loader and of transforms."""

import itertools

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.views import transforms

NOISE = transforms.GaussianNoise({'audio': 0.5, 'video': 2.0})


def drawn(_, random):
  """A view that only draws a number."""
  return np.float32(random.random())


def source(length):
  """Elements whose entries differ in shape, type and scale; `row` is unique."""
  random = np.random.RandomState(length)
  return sources.in_memory(
    [
      {
        'audio': random.normal(5, 2, [3]).astype(np.float32),
        'video': random.randint(0, 99, [2, 2]).astype(np.uint8),
        'row': np.int32(row),
      }
      for row in range(length)
    ]
  )


def write_columns(path, columns):
  """Writes columns in the format of the suffix, .npz or .parquet."""
  if path.suffix == '.npz':
    np.savez(path, **columns)
    return path
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  arrays = {
    name: pyarrow.array(v if isinstance(v, list) else v.tolist())
    for name, v in columns.items()
  }
  parquet.write_table(pyarrow.table(arrays), path)
  return path


def take(batches, count):
  return list(itertools.islice(batches, count))


def assert_same_batches(actual, expected):
  assert len(actual) == len(expected)
  for a, e in zip(actual, expected, strict=True):
    assert a.keys() == e.keys()
    for name in a:
      assert a[name].dtype == e[name].dtype
      np.testing.assert_array_equal(a[name], e[name])
