"""The loader's own Grain stages: shuffling, and batching in place."""

import functools
import multiprocessing
import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import sources

with _extra.data_extra():
  import grain


class Shuffle(grain.transforms.MapWithIndex):
  """Maps each index to an element, in an order drawn anew for every epoch.

  Grain's own shuffle computes each place separately. It needs no memory, but
  takes 160 microseconds a place for 100 elements and 20 for 1,000 (its cycle
  walk is long for short sources). Drawing the whole order of an epoch at once
  costs almost no time, and 8 bytes an element for each cached order.
  """

  def __init__(self, source: sources.Source, seed: int) -> None:
    self._source = source
    self._length = len(source)
    self._seed = seed
    # A cache, not state: the orders of the latest even and the latest odd
    # epoch. A batch, or threads that read ahead, may need two epochs at once.
    self._orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

  def map_with_index(self, index: int, element: int) -> sources.Element:
    """Returns the element at `index`, which counts on through all epochs."""
    del element  # The index without its epoch.
    epoch, place = divmod(index, self._length)
    return self._source[int(self._order(epoch)[place])]

  def rows(self, begin: int, end: int) -> npt.NDArray[np.int64]:
    """Which elements of the source are at these indices, `end` excluded."""
    parts = []
    while begin < end:
      epoch, place = divmod(begin, self._length)
      parts.append(self._order(epoch)[place : place + end - begin])
      begin += len(parts[-1])
    return np.concatenate(parts)

  def _order(self, epoch: int) -> npt.NDArray[np.int64]:
    known, order = self._orders.get(epoch % 2, (-1, np.empty(0, np.int64)))
    if known != epoch:
      # NumPy promises never to change what RandomState draws, so a run can be
      # restored with another version. Orders repeat after 2^32 epochs.
      random = np.random.RandomState([self._seed, epoch % 2**32])
      order = random.permutation(self._length)
      self._orders[epoch % 2] = epoch, order
    return order


class Batch(grain.transforms.Map):
  """Makes a batch by writing one element after the other into its row.

  Grain's own `batch` holds all elements and then stacks them. For pictures,
  allocating fresh memory for each element costs as much as a fifth of making
  it. Here the memory of one element is reused for a later one.

  Args:
    elements: The elements.
    batch_size: Rows of the batch.
    with_mask: Whether to add `mask`, which is False in padded rows.
  """

  def __init__(
    self, elements: grain.MapDataset, batch_size: int, with_mask: bool = False
  ) -> None:
    self._elements = elements
    self._batch_size = batch_size
    self._with_mask = with_mask

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    _end_with_parent()

  def map(self, number: int) -> dict[str, npt.NDArray[Any]]:
    """Returns batch `number`, padded with zeros after the last element."""
    first = number * self._batch_size
    last = min(first + self._batch_size, len(self._elements))
    batch: sources.Element = {}
    for place in range(last - first):
      element = self._elements[first + place]
      arrays = {name: np.asarray(value) for name, value in element.items()}
      form = {name: (a.dtype.name, a.shape) for name, a in arrays.items()}
      if place == 0:
        expected = form
        batch = {
          name: np.empty((self._batch_size, *a.shape), a.dtype)
          for name, a in arrays.items()
        }
      if form != expected:
        raise ValueError(
          f'Expected elements of one form, got {form} in element {place} of a'
          f' batch after {expected}. Cut, pad or drop entries with a transform,'
          ' or a view.'
        )
      for name, array in arrays.items():
        batch[name][place] = array
    for rows in batch.values():
      rows[last - first :] = 0
    if self._with_mask:
      batch['mask'] = np.arange(self._batch_size) < last - first
    return batch


@functools.cache
def _end_with_parent() -> None:
  """In a worker process: exits as soon as the parent process has died.

  A parent that is killed cannot stop its workers, and they would wait for ever.
  """
  if parent := multiprocessing.parent_process():

    def wait() -> None:
      parent.join()
      os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
