"""The loader: endless training batches, and one pass for evaluation."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines import _extra
from data_pipelines import _stages
from data_pipelines import sources

with _extra.data_extra():
  import grain
  from absl import flags


def loader(
  source: sources.Source,
  *,
  batch_size: int,
  seed: int,
  transforms: Sequence[Any] = (),
  shard_index: int = 0,
  shard_count: int = 1,
  num_workers: int = 0,
  num_threads: int = 0,
) -> 'Batches':
  """Makes training batches endlessly, with a new shuffle in every epoch.

  Shuffle, then transform, then repeat, then batch, then shard. Every epoch has
  each element once. None is dropped: a batch may hold the end of one epoch and
  the start of the next. Order and noise depend on `seed` alone, not on the
  number of workers or threads, nor on where a run was stopped and restored.

  Args:
    source: Where elements come from. Use `sources.in_memory` if they fit.
    batch_size: Elements in each batch of this process, at least 1. It may be
      larger than the source.
    seed: Determines order and noise, from 0 to 2**32 - 1.
    transforms: `grain.transforms.Map` and `RandomMap`, applied in order to each
      element in each epoch. Deterministic ones are cheaper in
      `sources.in_memory`.
    shard_index: The shard that this process reads; with several processes
      `jax.process_index()`.
    shard_count: Number of disjoint shards; `jax.process_count()`. The batches
      of all shards, concatenated, equal those of one process whose `batch_size`
      is `shard_count` times as large, row for row. Together the shards hold
      each element once an epoch, whatever the length of the source.
    num_workers: Processes that prefetch batches; 0 works in this process. They
      pay off only if an element is expensive to make. They import the main
      module again, so a script needs `if __name__ == '__main__':`. For rows in
      memory without transforms there are none, and no threads.
    num_threads: Threads that read ahead in each process: 0 for data in memory,
      a few for a slow disk.

  Returns:
    An iterator of dictionaries of arrays, `[batch_size, ...]`. Its `get_state`
    returns a small JSON-serialisable dictionary, and `set_state` continues from
    there. The numbers of workers, threads and shards may change in between, as
    long as the batches of all shards together keep their size. `seek(step)`
    goes to the batch of that number; `close` stops the workers.

  Raises:
    ValueError: if an argument is outside its range, the source is empty or has
      fewer elements than there are shards, or a transform is of another kind.

  Examples:
    >>> import numpy as np
    >>> rows = [{'x': np.float32(x)} for x in range(3)]
    >>> batches = loader(rows, batch_size=2, seed=0)
    >>> two_epochs = np.concatenate([next(batches)['x'] for _ in range(3)])
    >>> sorted(two_epochs[:3]) == sorted(two_epochs[3:]) == [0, 1, 2]
    True
    >>> state = batches.get_state()
    >>> expected = next(batches)['x']
    >>> batches.set_state(state)
    >>> bool(np.all(next(batches)['x'] == expected))
    True
  """
  _check(source, batch_size, transforms, num_workers, num_threads)
  seed = _seed(seed)
  if not 0 <= shard_index < shard_count <= len(source):
    raise ValueError(
      'Expected 0 <= shard_index < shard_count <= length of the source, got '
      f'shard_index {shard_index}, shard_count {shard_count} and length '
      f'{len(source)}.'
    )
  # Elements are numbered through all epochs, and Grain seeds random transforms
  # by that number. Shards take whole batches in turn, so that in each step the
  # shards together read the next rows of the one global order.
  shuffle = _stages.Shuffle(source, seed)
  elements = (
    grain.MapDataset.range(len(source))
    .seed(seed)
    .map_with_index(shuffle)
    .apply(tuple(transforms))
    .repeat()
  )
  batches = (
    grain.MapDataset.range(len(elements) // batch_size)
    .slice(slice(shard_index, None, shard_count))
    .map(_stages.Batch(elements, batch_size))
  )

  def made(first: int) -> Iterator[sources.Element]:
    later = batches.slice(slice(first, None))
    return iter(_ahead(later, num_workers, num_threads))

  def gathered(first: int) -> Iterator[sources.Element]:
    number = shard_index + first * shard_count
    while True:
      rows = shuffle.rows(number * batch_size, (number + 1) * batch_size)
      yield {name: values[rows] for name, values in arrays.items()}
      number += shard_count

  # Both make the same, bit for bit, and gathering is much faster.
  arrays: Mapping[str, Any] = {}
  if isinstance(source, sources.InMemory) and not transforms:
    arrays = source.arrays
  return Batches(
    gathered if arrays else made,
    identity={
      'length': len(source),
      # Of all shards together: a restored run may have another shard_count.
      'batch_size': batch_size * shard_count,
      'seed': seed,
    },
  )


def evaluation_batches(
  source: sources.Source,
  *,
  batch_size: int,
  transforms: Sequence[Any] = (),
  seed: int | None = None,
  num_workers: int = 0,
  num_threads: int = 0,
) -> grain.IterDataset:
  """Makes batches that hold each element exactly once, in order.

  Args:
    source: Where elements come from.
    batch_size: Elements in each batch, at least 1; it may be larger than the
      source.
    transforms: `grain.transforms.Map` and `RandomMap`, applied in order.
    seed: Required by random transforms; each pass draws the same. Without a
      seed they are refused, since an evaluation should not vary unnoticed.
    num_workers: Processes that prefetch batches, started anew for each pass;
      see `loader`.
    num_threads: Threads that read ahead in each process.

  Returns:
    An iterable, for any number of passes, of dictionaries of arrays
    `[batch_size, ...]` with an additional entry `mask`, `[batch_size]` bool.
    The last batch is padded with zeros, where `mask` is False.

  Raises:
    ValueError: if `batch_size` is below 1, the source is empty or already has
      an entry `mask`, a transform is of another kind or lacks a seed, or
      `num_workers` or `num_threads` is negative.

  Examples:
    >>> import numpy as np
    >>> rows = [{'x': np.float32(x)} for x in (5, 6, 7)]
    >>> for batch in evaluation_batches(rows, batch_size=2):
    ...   print(batch['x'], batch['mask'])
    [5. 6.] [ True  True]
    [7. 0.] [ True False]
  """
  _check(source, batch_size, transforms, num_workers, num_threads)
  if 'mask' in source[0]:
    raise ValueError(
      "The elements already have an entry 'mask', which evaluation_batches "
      'adds. Rename it.'
    )
  data = grain.MapDataset.source(source)
  if seed is not None:
    data = data.seed(_seed(seed))
  elif any(isinstance(t, grain.transforms.RandomMap) for t in transforms):
    raise ValueError(
      'A random transform makes the evaluation random. Leave it out, or give '
      'evaluation_batches a seed to draw the same each time.'
    )
  elements = data.apply(tuple(transforms))
  return _ahead(
    grain.MapDataset.range(-(-len(elements) // batch_size)).map(
      _stages.Batch(elements, batch_size, with_mask=True)
    ),
    num_workers,
    num_threads,
  )


class Batches(grain.DatasetIterator):
  """An iterator over numbered batches, made in this process or in workers.

  Grain's own iterator states depend on the number of workers. Here batch `n` is
  the same however it is made, so the state is the number of the next batch. The
  identity beside it detects a state that belongs to another loader.

  Args:
    start: The number of a batch -> an iterator that begins with it.
    identity: Whole numbers that another loader does not have.
  """

  def __init__(
    self,
    start: Callable[[int], Iterator[sources.Element]],
    identity: Mapping[str, int],
  ) -> None:
    super().__init__()
    self._start = start
    # Python integers, since JSON has no others.
    self._identity = {k: operator.index(v) for k, v in identity.items()}
    self._next_batch = 0
    # Created on demand, so that restoring does not start workers twice.
    self._iterator: Any = None
    self._is_closed = False

  def __next__(self) -> sources.Element:
    if self._is_closed:
      raise ValueError('The loader was closed. Make a new one.')
    if self._iterator is None:
      self._iterator = self._start(self._next_batch)
    batch = next(self._iterator)
    self._next_batch += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """Returns the number of the next batch, and the loader's identity."""
    return {'next_batch': self._next_batch, **self._identity}

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from the state of a loader with the same source and seed."""
    identity = {key: state.get(key) for key in self._identity}
    if identity != self._identity:
      raise ValueError(
        f'The state is of a loader with {identity}, this one has '
        f'{self._identity}. Make the loader with the arguments of the run '
        'that you restore.'
      )
    self.seek(state['next_batch'])

  def seek(self, step: int) -> None:
    """Goes to a batch, which the next call of `next` returns.

    Args:
      step: The number of the batch; the first is 0.

    Raises:
      ValueError: if it is negative.
    """
    if operator.index(step) < 0:
      raise ValueError(f'Expected a step of at least 0, got {step}.')
    self._stop()
    self._next_batch = operator.index(step)

  def close(self) -> None:
    """Stops the workers, for good."""
    self._stop()
    self._is_closed = True
    super().close()

  def _stop(self) -> None:
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _check(
  source: sources.Source,
  batch_size: int,
  transforms: Sequence[Any],
  num_workers: int,
  num_threads: int,
) -> None:
  """Raises ValueError for arguments that no loader can work with."""
  if batch_size < 1:
    raise ValueError(f'Expected a batch_size of at least 1, got {batch_size}.')
  if len(source) == 0:
    raise ValueError('Expected a source with elements, got an empty one.')
  for transform in transforms:
    if not isinstance(
      transform, grain.transforms.Map | grain.transforms.RandomMap
    ):
      raise ValueError(
        'Expected transforms of the kinds grain.transforms.Map and '
        f'grain.transforms.RandomMap, got {transform!r}. What changes the '
        'number of elements belongs in the source.'
      )
  if num_workers < 0 or num_threads < 0:
    raise ValueError(
      'Expected num_workers and num_threads of at least 0, got '
      f'{num_workers} and {num_threads}.'
    )


def _seed(seed: int) -> int:
  """Returns the seed as a Python integer; it must fit in 32 bits."""
  if not 0 <= operator.index(seed) < 2**32:
    raise ValueError(f'Expected a seed from 0 to 2**32 - 1, got {seed}.')
  return operator.index(seed)


def _ahead(
  batches: grain.MapDataset, num_workers: int, num_threads: int
) -> grain.IterDataset:
  """Iterates over batches, prefetched by worker processes and threads."""
  if num_workers > 0 and not flags.FLAGS.is_parsed():
    # Grain's workers read absl flags, which only absl.app.run parses. In a
    # program without it the flags keep their defaults.
    flags.FLAGS.mark_as_parsed()
  return batches.to_iter_dataset(
    # The buffer holds whole batches: two for each thread keep it busy.
    grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=2 * num_threads
    )
  ).mp_prefetch(
    grain.MultiprocessingOptions(
      num_workers=num_workers, per_worker_buffer_size=2
    )
  )
