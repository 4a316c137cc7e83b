"""Reads the items of a split; counts and lists those that fail."""

import collections
import contextlib
import csv
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tqdm

from data_pipelines import _extra

with _extra.data_extra():
  import grain

# Items that each thread reads ahead.
_AHEAD = 4
# Stop after this many corrupt items if none could be read.
_HOPELESS = 100


class SkipError(Exception):
  """An item that cannot be read; it is left out and counted under its reason.

  Attributes:
    reason: A word to count by: 'missing', 'corrupt', 'lfs_pointer',
      'too_short' and the like.
    detail: For the reader: the file and what is wrong with it.
  """

  def __init__(self, reason: str, detail: str) -> None:
    super().__init__(f'{reason}: {detail}')
    self.reason = reason
    self.detail = detail


class Part(NamedTuple):
  """How to read a split.

  Attributes:
    items: Key -> what `read` needs to know about the item, or a `SkipError` for
      an item to leave out.
    read: (key, item) -> example; raises `SkipError` for an item to leave out.
    expected: How many items the published split has, or None if unknown.
  """

  items: Mapping[str, Any]
  read: Callable[[str, Any], dict[str, Any]]
  expected: int | None = None


def examples(
  part: Part, name: str, split: str, folder: str | os.PathLike[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Reads items in threads, in order, and reports at the end what is missing.

  Decoders release Python's lock while they work, so threads use every core.

  Args:
    part: What to read.
    name: The data set, for reports.
    split: The split, likewise.
    folder: Of the prepared data set; `skipped-<split>.csv` is written there.

  Yields:
    (number, example) for each item that was read, counted from 0 as for TFDS.

  Raises:
    ValueError: if no item could be read. If the first ones are corrupt, it
      does not try all.
  """
  skipped: list[tuple[str, str, str]] = []
  count = damaged = 0
  for key, result in _in_order(part, f'{name} {split}'):
    if isinstance(result, SkipError):
      skipped.append((key, result.reason, result.detail))
      damaged += result.reason == 'corrupt'
      if not count and damaged == _HOPELESS:
        break
    else:
      yield count, result
      count += 1
  path = pathlib.Path(folder) / f'skipped-{split}.csv'
  # Paths may have bytes that are not valid text.
  with path.open(
    'w', newline='', encoding='utf-8', errors='backslashreplace'
  ) as file:
    csv.writer(file).writerows([('key', 'reason', 'detail'), *skipped])
  _tell(f'{name}: the split {split!r}', count, part.expected, path, skipped)
  if count == 0:
    first = f' The first: {skipped[0][2]}' if skipped else ''
    raise ValueError(
      f'{name}: no item of the split {split!r} could be read, of'
      f' {len(skipped)} that were looked for.{first}'
    )


def _in_order(
  part: Part, description: str
) -> Iterator[tuple[str, dict[str, Any] | SkipError]]:
  """Reads a little ahead in threads; yields results in the order of keys."""
  pairs = list(part.items.items())

  def attempt(place: int) -> dict[str, Any] | SkipError:
    key, item = pairs[place]
    try:
      return item if isinstance(item, SkipError) else part.read(key, item)
    except SkipError as error:
      return error

  workers = os.cpu_count() or 1
  ahead = grain.ReadOptions(
    num_threads=workers, prefetch_buffer_size=_AHEAD * workers
  )
  results = iter(
    grain.MapDataset.range(len(pairs)).map(attempt).to_iter_dataset(ahead)
  )
  with (
    # After an error or Ctrl-C, no further items are begun.
    contextlib.closing(results),
    # None: no bar where standard error is no terminal.
    tqdm.tqdm(total=len(pairs), desc=description, disable=None) as bar,
  ):
    for key, _ in pairs:
      yield key, next(results)
      bar.update()


def _tell(
  split: str,
  count: int,
  expected: int | None,
  path: pathlib.Path,
  skipped: Sequence[tuple[str, str, str]],
) -> None:
  """Logs how many items were read, expected and left out, and why."""
  text = f'{split} has {count} items'
  if expected is not None:
    text += f'; the published one has {expected}'
  if skipped:
    reasons = collections.Counter(reason for _, reason, _ in skipped)
    listed = ', '.join(f'{reasons[each]} {each}' for each in sorted(reasons))
    text += (
      f'. Skipped: {listed}; {path.name} in the prepared folder lists them'
    )
  is_whole = not skipped and expected in (None, count)
  logging.getLogger(__name__).log(
    logging.INFO if is_whole else logging.WARNING, '%s.', text
  )
