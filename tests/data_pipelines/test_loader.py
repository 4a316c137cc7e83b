"""The loader: order, noise, states, shards, batches."""

import json

import grain
import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines import sources
from data_pipelines import views
from data_pipelines.views import transforms
from tests.data_pipelines import toys


def start(length=10, batch_size=4, seed=8, transforms=(), **options):
  return loader.loader(
    toys.source(length),
    batch_size=batch_size,
    seed=seed,
    transforms=[toys.NOISE, *transforms],
    **options,
  )


def rows_of(batches):
  return np.concatenate([batch['row'] for batch in batches]).tolist()


@pytest.mark.quick
def test_equal_seeds_give_equal_batches_and_others_do_not():
  one, again, other = (toys.take(start(11, seed=s), 6) for s in (5, 5, 6))
  toys.assert_same_batches(one, again)
  assert rows_of(one) != rows_of(other)


@pytest.mark.quick
def test_noise_depends_on_the_seed_and_the_epoch():
  def draw(seed):
    batches = toys.take(start(1, batch_size=1, seed=seed), 2)
    return [batch['audio'].tolist() for batch in batches]

  first, second = draw(0)
  other_first, other_second = draw(1)
  assert first not in [second, other_first, other_second]
  assert draw(0) == [first, second]


@pytest.mark.quick
def test_every_epoch_has_every_element_once():
  for length, batch_size in [(7, 3), (10, 4), (5, 5), (4, 11), (1, 2)]:
    source = toys.source(length)
    batches = toys.take(
      loader.loader(source, batch_size=batch_size, seed=3), 4 * length
    )
    epochs = np.reshape(rows_of(batches), [-1, length])
    assert len(epochs) == 4 * batch_size
    for epoch in epochs:
      assert sorted(epoch.tolist()) == list(range(length))
    if length > 3:
      assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
    for batch in batches:
      for name, array in source.arrays.items():
        np.testing.assert_array_equal(batch[name], array[batch['row']])


def test_the_order_never_changes():
  # Recorded once. A run is restored, and a result repeated, only while it
  # holds.
  batches = loader.loader(toys.source(5), batch_size=5, seed=7)
  assert [batch['row'].tolist() for batch in toys.take(batches, 2)] == [
    [4, 1, 2, 3, 0],
    [3, 2, 0, 1, 4],
  ]


@pytest.mark.quick
def test_batches_have_one_static_shape():
  for batch_size in (1, 4, 30):
    for batch in toys.take(start(7, batch_size), 9):
      assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        'audio': ((batch_size, 3), np.float32),
        'video': ((batch_size, 2, 2), np.float32),
        'row': ((batch_size,), np.int32),
      }


def test_later_batches_do_not_change_earlier_ones():
  batches = start(40, batch_size=8)
  kept = toys.take(batches, 5)
  copies = [{k: v.copy() for k, v in batch.items()} for batch in kept]
  toys.take(batches, 10)
  toys.assert_same_batches(kept, copies)


@pytest.mark.quick
def test_concatenated_shards_are_one_loader_across_epochs():
  for length, count in [(8, 4), (10, 3), (7, 7), (11, 2), (6, 1), (9, 5)]:
    whole = toys.take(start(length, 2 * count), 3 * length)
    parts = [
      toys.take(start(length, 2, shard_index=i, shard_count=count), 3 * length)
      for i in range(count)
    ]
    joined = [
      {name: np.concatenate([part[name] for part in step]) for name in whole[0]}
      for step in zip(*parts, strict=True)
    ]
    toys.assert_same_batches(joined, whole)
    rows = np.reshape(rows_of(whole)[: 6 * length], [6, length])
    for epoch in rows:
      assert sorted(epoch) == list(range(length))


@pytest.mark.quick
def test_a_state_can_be_restored_with_another_number_of_shards():
  one = start(batch_size=12)
  toys.take(one, 4)
  state, expected = one.get_state(), next(one)
  parts = [start(batch_size=4, shard_index=i, shard_count=3) for i in range(3)]
  for part in parts:
    part.set_state(state)
    assert part.get_state() == state
  batches = [next(part) for part in parts]
  for name, value in expected.items():
    joined = np.concatenate([batch[name] for batch in batches])
    np.testing.assert_array_equal(joined, value)


@pytest.mark.quick
def test_restoring_at_any_step_gives_the_same_further_batches():
  for index, count in [(0, 1), (1, 2)]:
    batches = start(shard_index=index, shard_count=count)
    states, expected = [], []
    for _ in range(9):
      states.append(json.dumps(batches.get_state()))
      expected.append(next(batches))
    for step, state in enumerate(states):
      fresh = start(shard_index=index, shard_count=count)
      fresh.set_state(json.loads(state))
      assert json.dumps(fresh.get_state()) == state
      toys.assert_same_batches(toys.take(fresh, 9 - step), expected[step:])
    # Also backwards, in an iterator that has been used.
    batches.set_state(json.loads(states[2]))
    toys.assert_same_batches(toys.take(batches, 7), expected[2:])


@pytest.mark.quick
def test_seek_goes_to_a_batch_by_its_number():
  expected = toys.take(start(), 9)
  batches = start()
  for step in [6, 0, 8, 3, 3]:
    batches.seek(step)
    assert batches.get_state()['next_batch'] == step
    toys.assert_same_batches(toys.take(batches, 9 - step), expected[step:])
  with pytest.raises(ValueError, match='at least 0, got -1'):
    batches.seek(-1)
  with pytest.raises(TypeError, match='integer'):
    batches.seek(0.5)


@pytest.mark.quick
def test_batches_never_end():
  batches = start(length=2, batch_size=4)
  batches.seek(2**33)
  assert sorted(next(batches)['row'].tolist()) == [0, 0, 1, 1]


@pytest.mark.quick
def test_a_state_of_another_loader_is_refused():
  state = start().get_state()
  for changed in (
    {'length': 7},
    {'batch_size': 3},
    {'seed': 1},
    {'shard_count': 2},
  ):
    with pytest.raises(ValueError, match='is of a loader with'):
      start(**changed).set_state(state)


def test_workers_change_nothing_and_states_can_be_exchanged():
  # Including views, which draw in the workers.
  drawn = views.TrainingViews({'drawn': toys.drawn}, ['audio', 'row'])
  alone = start(transforms=[drawn])
  skipped = toys.take(alone, 3)
  state = alone.get_state()
  expected = toys.take(alone, 4)
  helped = start(transforms=[drawn], num_workers=2)
  try:
    toys.assert_same_batches(toys.take(helped, 3), skipped)
    assert helped.get_state() == state
    toys.assert_same_batches(toys.take(helped, 4), expected)
  finally:
    helped.close()
  with pytest.raises(ValueError, match='closed'):
    next(helped)
  alone.set_state(state)
  toys.assert_same_batches(toys.take(alone, 4), expected)


@pytest.mark.parametrize(('index', 'count'), [(0, 1), (1, 2)])
def test_rows_in_memory_give_the_batches_of_single_elements(index, count):
  rows = sources.in_memory(
    [{'x': np.arange(3.0) + i, 'name': f'row {i:2}'} for i in range(13)]
  )
  options = {'batch_size': 5, 'seed': 7}
  options |= {'shard_index': index, 'shard_count': count}
  ours = loader.loader(rows, **options)
  theirs = loader.loader(list(rows), **options)
  first = toys.take(ours, 8)  # three epochs or more
  toys.assert_same_batches(first, toys.take(theirs, 8))
  assert ours.get_state() == theirs.get_state()
  for step in (2, 30, 3, 2**32, 0):
    ours.seek(step)
    theirs.seek(step)
    toys.assert_same_batches(toys.take(ours, 2), toys.take(theirs, 2))
  # Changing a batch in place changes neither the rows nor a later batch.
  ours.seek(0)
  next(ours)['x'][:] = 0
  ours.seek(0)
  toys.assert_same_batches([next(ours)], first[:1])
  ours.close()
  with pytest.raises(ValueError, match='closed'):
    next(ours)


def test_threads_change_nothing():
  toys.assert_same_batches(
    toys.take(start(num_threads=3), 40), toys.take(start(), 40)
  )


@pytest.mark.quick
def test_wrong_arguments_are_refused():
  def refused(make, message, error=ValueError, **changed):
    source = changed.pop('source', toys.source(4))
    with pytest.raises(error, match=message):
      make(source, **{'batch_size': 2, 'seed': 0} | changed)

  of_both = loader.loader, loader.evaluation_batches
  for make in of_both:
    refused(make, 'batch_size.*0', batch_size=0)
    refused(make, 'empty', source=[])
    refused(make, 'seed', seed=-1)
    refused(make, 'num_workers', num_workers=-1)
    refused(make, 'num_threads', num_threads=-1)
    refused(make, 'len', transforms=[len])
    refused(make, 'Batch', transforms=[grain.transforms.Batch(2)])
  train, evaluation = of_both
  refused(train, 'seed', seed=2**32)
  refused(train, 'integer', TypeError, seed=0.5)
  refused(train, 'shard_index 2, shard_count 2', shard_index=2, shard_count=2)
  refused(train, 'shard_index -1', shard_index=-1)
  refused(train, 'length 4', shard_count=5)
  refused(evaluation, "'mask'", source=[{'mask': np.ones(2)}])
  with pytest.raises(TypeError, match='seed'):
    loader.loader(toys.source(2), batch_size=1)


# Evaluation.


@pytest.mark.quick
def test_evaluation_counts_every_element_once_in_order():
  for length, batch_size in [(7, 3), (6, 3), (2, 5), (1, 1), (9, 8)]:
    source = toys.source(length)
    each = loader.evaluation_batches(source, batch_size=batch_size)
    batches = list(each)
    assert len(batches) == -(-length // batch_size)
    for batch in batches:
      assert batch['audio'].shape == (batch_size, 3)
      assert batch['video'].shape == (batch_size, 2, 2)
      assert batch['mask'].shape == (batch_size,)
      assert batch['mask'].dtype == bool
      assert not batch['audio'][~batch['mask']].any()
    for name, array in source.arrays.items():
      assert batches[0][name].dtype == array.dtype
      kept = np.concatenate([batch[name][batch['mask']] for batch in batches])
      np.testing.assert_array_equal(kept, array)
    # Any number of passes gives the same.
    toys.assert_same_batches(list(each), batches)


@pytest.mark.quick
def test_evaluation_applies_transforms_before_padding():
  shift = transforms.Standardize({'row': -9.0}, {'row': 1.0})
  batches = loader.evaluation_batches(
    toys.source(3), batch_size=2, transforms=[shift]
  )
  assert [b['row'].tolist() for b in batches] == [[9, 10], [11, 0]]


def test_evaluation_is_random_only_with_a_seed():
  def run(seed):
    return list(
      loader.evaluation_batches(
        toys.source(5), batch_size=2, transforms=[toys.NOISE], seed=seed
      )
    )

  with pytest.raises(ValueError, match='seed'):
    run(None)
  toys.assert_same_batches(run(1), run(1))
  assert not np.array_equal(run(1)[0]['audio'], run(2)[0]['audio'])


def test_errors_name_elements_of_different_forms():
  for other, message in (
    (
      {'x': np.zeros(3)},
      r"'float64', \((2|3),\).* after .*'float64', \((2|3),",
    ),
    (
      {'x': np.zeros(2, np.float32)},
      r"'float(32|64)', .* after .*'float(32|64)",
    ),
    ({'y': np.zeros(2)}, r"{'(x|y)': .* after {'(x|y)': "),
    ({'x': np.zeros(2), 'y': 1}, r"{'x': .* after {'x': "),
  ):
    rows = [{'x': np.zeros(2)}, other]
    for batches in (
      loader.loader(rows, batch_size=2, seed=0),
      iter(loader.evaluation_batches(rows, batch_size=2)),
    ):
      with pytest.raises(
        ValueError, match=f'elements of one form, got .*{message}'
      ):
        next(batches)
