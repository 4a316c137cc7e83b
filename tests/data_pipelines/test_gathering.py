"""Gathered batches are those of the loader."""

import numpy as np
import pytest

from data_pipelines import gathering
from data_pipelines import loader
from data_pipelines import sources
from tests.data_pipelines import toys

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


@pytest.mark.parametrize(('shard', 'kept'), [((0, 1), 99), ((1, 2), 3)])
def test_batches_are_those_of_the_loader_from_any_step(
  monkeypatch, shard, kept
):
  monkeypatch.setattr(gathering, '_MOST_PLACES', 5 * kept)
  index, count = shard
  options = {'batch_size': 5, 'seed': 7}
  options |= {'shard_index': index, 'shard_count': count}
  ours = gathering.Gathered(ROWS, **options)
  theirs = loader.loader(ROWS, **options)
  first = toys.take(ours, 8)  # three epochs
  toys.assert_same_batches(first, toys.take(theirs, 8))
  assert ours.get_state() == theirs.get_state()
  for step in (2, 30, 3, 0):  # cached, and not
    ours.seek(step)
    theirs.seek(step)
    toys.assert_same_batches(toys.take(ours, 2), toys.take(theirs, 2))
  state = theirs.get_state()
  next(ours)
  ours.set_state(state)
  toys.assert_same_batches([next(ours)], [next(theirs)])
  # Changing a batch in place changes no other batch.
  ours.seek(0)
  next(ours)['x'][:] = 0
  ours.seek(0)
  toys.assert_same_batches([next(ours)], first[:1])
  with pytest.raises(ValueError, match='loader with'):
    ours.set_state(state | {'seed': 8})
  with pytest.raises(ValueError, match='at least 0'):
    ours.seek(-1)
  assert len(ours._known) <= kept
  ours.close()
  ours.seek(100)
  with pytest.raises(ValueError, match='closed'):
    next(ours)
