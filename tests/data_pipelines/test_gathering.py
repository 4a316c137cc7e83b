"""Batches of rows in memory are those of the loader."""

import numpy as np
import pytest

from data_pipelines import gathering
from data_pipelines import loader
from data_pipelines import sources

ROWS = sources.in_memory(
  [
    {
      'x': np.arange(3, dtype=np.float32) + i,
      'label': np.int64(i % 4),
      'name': f'row {i}',
    }
    for i in range(13)
  ]
)


def assert_same(batch, other):
  assert batch.keys() == other.keys()
  for name, values in batch.items():
    assert values.dtype == other[name].dtype
    np.testing.assert_array_equal(values, other[name])


@pytest.mark.parametrize(('shard', 'kept'), [((0, 1), 99), ((1, 2), 3)])
def test_batches_are_those_of_the_loader_from_wherever(
  monkeypatch, shard, kept
):
  monkeypatch.setattr(gathering, '_MOST_PLACES', 5 * kept)
  index, count = shard
  options = {'batch_size': 5, 'seed': 7}
  options |= {'shard_index': index, 'shard_count': count}
  ours = gathering.Gathered(ROWS, **options)
  theirs = loader.loader(ROWS, **options)
  first = [next(ours) for _ in range(8)]  # three epochs
  for batch in first:
    assert_same(batch, next(theirs))
  assert ours.get_state() == theirs.get_state()
  for step in (2, 30, 3, 0):  # known, and not
    ours.seek(step)
    theirs.seek(step)
    assert_same(next(ours), next(theirs))
    assert_same(next(ours), next(theirs))
  state = theirs.get_state()
  next(ours)
  ours.set_state(state)
  assert_same(next(ours), next(theirs))
  # What a step changes in place is its own.
  ours.seek(0)
  next(ours)['x'][:] = 0
  ours.seek(0)
  assert_same(next(ours), first[0])
  with pytest.raises(ValueError, match='loader with'):
    ours.set_state(state | {'seed': 8})
  with pytest.raises(ValueError, match='at least 0'):
    ours.seek(-1)
  assert len(ours._known) <= kept
  ours.close()
  ours.seek(100)
  with pytest.raises(ValueError, match='closed'):
    next(ours)
