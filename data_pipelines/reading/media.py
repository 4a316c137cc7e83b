"""What reading sounds, videos and pictures has in common.

Audio becomes int16, mono, at one rate; pictures become JPEG bytes. Whatever
cannot be read is an `audit.SkipError`, with its reason.
"""

import contextlib
import errno
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import audit
from data_pipelines.reading import manual

with _extra.data_extra():
  import soxr

Choose: TypeAlias = Callable[[int, float], Sequence[int]]
"""(Number of frames, frames a second) to the numbers of frames to keep."""

RATE = 16_000
"""Samples a second of stored audio."""

MOST_SECONDS = 3600
"""Of a clip: of compressed silence, a megabyte is hours."""

OF_DAMAGE: tuple[type[Exception], ...] = (
  *(OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error),
  *(LookupError, ArithmeticError, MemoryError, RuntimeError),
)
"""What decoders raise of damaged content; libsndfile's is a RuntimeError."""

_RATES = (1_000, 1_000_000)
# What no other file would change: no space, no permission, too many open files.
_OF_THE_MACHINE = frozenset(
  [
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOSPC),
    *(errno.EDQUOT, errno.EMFILE, errno.ENFILE),
  ]
)


def check(path: pathlib.Path) -> pathlib.Path:
  """Returns the path of a file that is there, not empty and no pointer."""
  if not path.is_file():
    raise audit.SkipError('missing', f'{path} is not there')
  if path.stat().st_size == 0:
    raise audit.SkipError('corrupt', f'{path} is empty')
  if manual.is_pointer(path):
    raise audit.SkipError('lfs_pointer', f'{path} is a pointer of Git LFS')
  return path


@contextlib.contextmanager
def decoding(
  where: pathlib.Path | str, *others: type[Exception]
) -> Iterator[None]:
  """Turns what a decoder raises of damaged content into an item to skip.

  Any other exception is a mistake in the program, such as a `TypeError` because
  a new release of the decoder has another interface. It passes, because as an
  item to skip it would hide that no file can be read. So do faults of the
  machine, such as a file that may not be read.

  Args:
    where: The file, for the list of skipped items.
    *others: Further exceptions that damaged content raises in this block.

  Raises:
    SkipError: 'corrupt', with `where` and what the decoder says.
  """
  try:
    yield
  except (audit.SkipError, NotImplementedError):
    raise  # the latter is a RuntimeError, but no damage: what a call lacks
  except (*OF_DAMAGE, *others) as error:
    if is_of_the_machine(error):
      raise
    said = str(error) or type(error).__name__
    raise audit.SkipError('corrupt', f'{where}: {said}') from error


def is_of_the_machine(error: Exception) -> bool:
  """Tells whether no other file would change the error."""
  return isinstance(error, OSError) and error.errno in _OF_THE_MACHINE


def check_length(path: pathlib.Path, num_samples: int, rate: int) -> None:
  """Checks the length of a sound before memory is taken for it.

  Args:
    path: The file, for the list of skipped items.
    num_samples: Of each channel, read so far.
    rate: Samples a second.

  Raises:
    SkipError: if it is above an hour, or the rate outside 1 kHz to 1 MHz.
  """
  if not _RATES[0] <= rate <= _RATES[1]:
    raise audit.SkipError('corrupt', f'{path} has {rate} samples a second')
  if num_samples > MOST_SECONDS * rate:
    raise audit.SkipError('corrupt', f'{path} has more than an hour of sound')


def stored(
  path: pathlib.Path,
  parts: Sequence[tuple[npt.NDArray[np.float32], int]],
  rate: int = RATE,
) -> npt.NDArray[np.int16]:
  """Joins samples as they are stored, [n] int16.

  Args:
    path: The file, for the list of skipped items.
    parts: Samples in [-1, 1], and how many of them are a second.
    rate: Of what is stored; parts of other rates are resampled.

  Raises:
    SkipError: if there is no sample, or one that is no number.
  """
  resampled = []
  for values, own in parts:
    if not np.isfinite(values).all():
      raise audit.SkipError('corrupt', f'{path} has a sample that is no number')
    # Of a few samples at a high rate, none may be left.
    resampled.append(
      values if own == rate else soxr.resample(values, own, rate)
    )
  joined = np.concatenate(resampled) if resampled else np.zeros(0, np.float32)
  if len(joined) == 0:
    raise audit.SkipError('too_short', f'{path} has no sample')
  return np.round(joined * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)


def one_each_second(count: int, rate: float) -> list[int]:
  """Chooses the first frame of every second; see `Choose`.

  The rate is cut to an integer, as in the field's script.

  Examples:
    >>> one_each_second(75, 29.97)
    [0, 29, 58]
  """
  return list(range(0, count, max(int(rate), 1)))


def ten_half_seconds(count: int, rate: float) -> list[int]:
  """Chooses the frames at 0.5, 1.5, ..., 9.5 seconds, always ten; see `Choose`.

  In a shorter video, places past the end wrap around inside its last second,
  as in the files that the field's loaders expect.

  Examples:
    >>> ten_half_seconds(300, 30.0)
    [15, 45, 75, 105, 135, 165, 195, 225, 255, 285]
    >>> ten_half_seconds(70, 30.0)
    [15, 45, 65, 65, 65, 65, 65, 65, 65, 65]
  """
  places = [int((second + 0.5) * rate) for second in range(10)]
  begin = int((count - 1) // rate * rate)  # of the last second, maybe partial
  return [
    place if place < count else begin + (place - begin) % (count - begin)
    for place in places
  ]
