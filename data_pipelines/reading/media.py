"""Decodes what users have on disk: WAV files, videos, folders of pictures.

Audio becomes int16, mono, at one rate; pictures become JPEG bytes. Whatever
cannot be read is an `audit.SkipError`, with its reason.
"""

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import _pictures
from data_pipelines.reading import audit
from data_pipelines.reading import manual

with _extra.data_extra():
  import av
  import PIL.Image
  import soundfile
  import soxr

Choose: TypeAlias = Callable[[int, float], Sequence[int]]
"""(Number of frames, frames a second) to the numbers of frames to keep."""

RATE = 16_000
"""Samples a second of stored audio."""

# What OpenCV writes by default, and so the field's frames have.
_JPEG_QUALITY = 95
# A video that ends before its header says, by more than this, is truncated.
_LOST_SECONDS = 1.0
_LOST_SHARE = 0.25


def check(path: pathlib.Path) -> pathlib.Path:
  """Returns the path of a file that is there, not empty and no pointer."""
  if not path.is_file():
    raise audit.SkipError('missing', f'{path} is not there')
  if path.stat().st_size == 0:
    raise audit.SkipError('corrupt', f'{path} is empty')
  if manual.is_pointer(path):
    raise audit.SkipError('lfs_pointer', f'{path} is a pointer of Git LFS')
  return path


def read_wav(path: pathlib.Path, rate: int = RATE) -> npt.NDArray[np.int16]:
  """Reads a WAV file: mean of its channels, resampled.

  Args:
    path: any format that libsndfile knows.
    rate: samples a second to resample to, where the file has another number.

  Returns:
    [n] int16.

  Raises:
    SkipError: if it is missing, damaged, shorter than its header says, or has
      no sample.
  """
  check(path)
  with path.open('rb') as file:
    riff = file.read(8)
  declared = int.from_bytes(riff[4:], 'little') + 8
  # Some writers leave 0 or 2³² - 1 there when they cannot seek.
  if riff[:4] == b'RIFF' and path.stat().st_size < declared < 2**32 - 8:
    raise audit.SkipError(
      'corrupt',
      f'{path} has {path.stat().st_size} bytes of {declared}: truncated',
    )
  try:
    values, own = soundfile.read(path, dtype='float32', always_2d=True)
  except soundfile.LibsndfileError as error:
    raise audit.SkipError('corrupt', f'{path}: {error}') from error
  return _stored(values.mean(axis=1), own, path, rate)


def read_sound(path: pathlib.Path) -> npt.NDArray[np.int16]:
  """Reads the sound of a video: mean of its channels, resampled to `RATE`.

  Args:
    path: any container that FFmpeg knows.

  Returns:
    [n] int16.

  Raises:
    SkipError: if it is missing or damaged, or has no sound.
  """
  blocks = []
  with _opened(path) as container:
    if not container.streams.audio:
      raise audit.SkipError('no_audio', f'{path} has no sound')
    stream = container.streams.audio[0]
    # Planar float: [channels, samples], whatever the codec's own format.
    resampler = av.AudioResampler(format='fltp')
    for frame in container.decode(stream):
      blocks += [each.to_ndarray() for each in resampler.resample(frame)]
    rate = stream.rate
  if not blocks:
    raise audit.SkipError('too_short', f'{path} has no sample')
  return _stored(np.concatenate(blocks, axis=1).mean(axis=0), rate, path)


def read_frames(path: pathlib.Path, choose: Choose) -> list[bytes]:
  """Reads some frames of a video.

  Args:
    path: any container that FFmpeg knows.
    choose: (number of frames, frames a second) -> numbers of the frames to
      keep, in order; the same one may come twice.

  Returns:
    JPEG bytes of each.

  Raises:
    SkipError: if it is missing, damaged or truncated, or has no frame.
  """
  with _opened(path) as container:
    if not container.streams.video:
      raise audit.SkipError('no_video', f'{path} has no picture')
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    count = sum(packet.size > 0 for packet in container.demux(stream))
    declared = _declared_seconds(container, stream)
  if count == 0:
    raise audit.SkipError('too_short', f'{path} has no frame')
  if rate <= 0:
    raise audit.SkipError('corrupt', f'{path} has no frame rate')
  lost = declared - count / rate
  if lost > min(_LOST_SECONDS, _LOST_SHARE * declared):
    raise audit.SkipError(
      'corrupt',
      f'{path} has {count / rate:.1f} s of {declared:.1f} s: truncated',
    )
  numbers = choose(count, rate)
  wanted = set(numbers)
  kept: dict[int, bytes] = {}
  with _opened(path) as container:
    for number, frame in enumerate(container.decode(video=0)):
      if number in wanted:
        kept[number] = jpeg(frame.to_ndarray(format='rgb24'))
      if len(kept) == len(wanted):
        break
  if len(kept) < len(wanted):
    raise audit.SkipError(
      'corrupt', f'{path} has {count} frames, of which not all decode'
    )
  return [kept[number] for number in numbers]


def read_pictures(folder: pathlib.Path) -> list[bytes]:
  """Reads the JPEG files of a folder, in the order of their names.

  Args:
    folder: frames of a clip that others have extracted.

  Returns:
    Their bytes, as they are.

  Raises:
    SkipError: if there is none, or one is damaged.
  """
  paths = sorted(folder.glob('[!.]*.jpg')) if folder.is_dir() else []
  if not paths:
    raise audit.SkipError('missing', f'{folder} has no .jpg file')
  pictures = []
  for path in paths:
    data = check(path).read_bytes()
    try:
      _pictures.opened(data).load()
    except OSError as error:
      raise audit.SkipError('corrupt', f'{path}: {error}') from error
    pictures.append(data)
  return pictures


def jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
  """Encodes a picture [height, width, 3] as JPEG."""
  stream = io.BytesIO()
  PIL.Image.fromarray(picture).save(stream, 'jpeg', quality=_JPEG_QUALITY)
  return stream.getvalue()


def one_each_second(count: int, rate: float) -> list[int]:
  """The first frame of every second, for `read_frames`.

  The rate is cut to an integer, as in the field's script, so that at 29.97
  frames a second the second frame kept is number 29.

  Args:
    count: frames of the video.
    rate: frames a second.

  Returns:
    Numbers of frames.

  Examples:
    >>> one_each_second(75, 29.97)
    [0, 29, 58]
  """
  return list(range(0, count, max(int(rate), 1)))


def ten_half_seconds(count: int, rate: float) -> list[int]:
  """Frames at 0.5, 1.5, ..., 9.5 seconds, always ten, for `read_frames`.

  In a shorter video, places past the end wrap around inside its last second,
  as in the files that the field's loaders expect.

  Args:
    count: frames of the video.
    rate: frames a second.

  Returns:
    Numbers of frames.

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


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """A container of FFmpeg's; what it cannot decode is skipped."""
  check(path)
  try:
    with av.open(str(path)) as container:
      yield container
  except av.FFmpegError as error:
    raise audit.SkipError('corrupt', f'{path}: {error}') from error


def _declared_seconds(container: Any, stream: Any) -> float:
  """How long the header says that the pictures are; 0 if it does not."""
  if stream.duration:
    return float(stream.duration * stream.time_base)
  return (container.duration or 0) / av.time_base


def _stored(
  values: npt.NDArray[np.float32],
  rate: int,
  path: pathlib.Path,
  wanted: int = RATE,
) -> npt.NDArray[np.int16]:
  """Samples in [-1, 1] as they are stored."""
  if len(values) == 0:
    raise audit.SkipError('too_short', f'{path} has no sample')
  if rate != wanted:
    values = soxr.resample(values, rate, wanted)
  return np.round(values * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
