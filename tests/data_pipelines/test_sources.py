"""Sources in memory, and subsets."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.views import transforms
from tests.data_pipelines import toys


def test_a_source_in_memory_has_the_same_elements(data_dir_of):
  source = sources.open_source(
    'handwritten',
    config='two',
    split='validation',
    data_dir=data_dir_of('handwritten', 'two'),
  )
  held = sources.in_memory(source)
  assert len(held) == len(source)
  for index in [0, 3, 199, -1]:
    toys.assert_same_batches([held[index]], [source[index]])
  for either in [held, source]:
    assert len(list(either)) == 200
    with pytest.raises(IndexError):
      either[200]


def test_texts_in_memory_may_be_of_any_length():
  held = sources.in_memory([{'name': 'one'}, {'name': 'three'}])
  assert [held[index]['name'] for index in range(2)] == ['one', 'three']


def test_elements_in_memory_cannot_be_written_to():
  source = toys.source(3)
  with pytest.raises(ValueError, match='read-only'):
    source[1]['audio'][:] = 0
  source[1].clear()
  assert source[1].keys() == {'audio', 'video', 'row'}


def test_in_memory_applies_transforms_in_order():
  double = transforms.Standardize({'audio': 0.0}, {'audio': 0.5})
  shift = transforms.Standardize({'audio': -1.0}, {'audio': 1.0})
  held = sources.in_memory(toys.source(4), [double, shift])
  np.testing.assert_allclose(
    held.arrays['audio'], 2 * toys.source(4).arrays['audio'] + 1, rtol=1e-6
  )


def test_in_memory_refuses_what_it_cannot_stack():
  for source, chain, message in (
    ([], [], 'empty'),
    (toys.source(2), [toys.NOISE], r'GaussianNoise.*loader'),
    (toys.source(2), [len], 'Map'),
    (
      [{'x': np.zeros(2)}, {'x': np.zeros(3)}],
      [],
      r"'x': .*\(3,\).*element 1 .*\(2,\)",
    ),
    ([{'x': np.zeros(2)}, {'y': np.zeros(2)}], [], r"'y'.*element 1 .*'x'"),
  ):
    with pytest.raises(ValueError, match=message):
      sources.in_memory(source, chain)


@hypothesis.given(
  length=st.integers(1, 60),
  fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
  seed=st.integers(0, 2**32 - 1),
)
@hypothesis.settings(deadline=None, derandomize=True)
def test_subsets_are_nested_and_of_the_right_size(length, fractions, seed):
  small, large = sorted(fractions)
  hypothesis.assume(round(small * length) > 0)
  elements = [{'row': 3 * row} for row in range(length)]

  def draw(fraction):
    drawn = sources.subset(elements, fraction, seed)
    return [drawn[i]['row'] for i in range(len(drawn))]

  assert len(draw(small)) == round(small * length)
  assert len(draw(large)) == round(large * length)
  assert set(draw(small)) <= set(draw(large)) <= {e['row'] for e in elements}
  assert draw(small) == draw(small) == sorted(set(draw(small)))


def test_subsets_depend_on_the_seed_and_a_fraction_of_1_is_the_source():
  source = toys.source(40)

  def draw(seed):
    return [e['row'].item() for e in sources.subset(source, 0.5, seed)]

  assert draw(0) != draw(1)
  assert draw(0) != list(range(20))
  assert sources.subset(source, 1, 0) is source


def test_subsets_refuse_empty_and_impossible_fractions():
  for fraction in (0, -0.5, 1.01, float('nan'), 0.04):
    with pytest.raises(ValueError, match='fraction'):
      sources.subset(toys.source(10), fraction, seed=0)
