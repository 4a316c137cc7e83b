"""Reads sound and frames of videos, by their time stamps."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import _pictures
from data_pipelines.reading import audit
from data_pipelines.reading import endings
from data_pipelines.reading import media
from data_pipelines.reading import pictures

with _extra.data_extra():
  import av

# PyAV before 19 fails on titles that are not UTF-8, unless told otherwise.
_TITLES: dict[str, Any] = {}
if int(av.__version__.partition('.')[0]) < 19:
  _TITLES = {'metadata_errors': 'replace'}

# A video is truncated if it is shorter than its header says by more than the
# smaller of these.
_LOST_SECONDS = 1.0
_LOST_SHARE = 0.25
# Formats that hold their own media. FFmpeg also knows formats that list other
# files or addresses; these must not be opened.
_FORMATS = (
  'mov,mp4,m4a,3gp,3g2,mj2,flv,live_flv,matroska,webm,avi,mpeg,mpegts,'
  'mpegvideo,asf,ogg,nut,mxf,h264,hevc,m4v,mp3,aac,wav,flac'
)
# Encoders delay the first frame a little. Up to this delay it counts as the
# frame at time 0.
_LATE_SECONDS = 0.1
_LIMITS = {'max_pixels': str(_pictures.MOST_PIXELS)}
# A video of varying frame rate is treated as if it had this many frames a
# second.
_TICKS = 1000


class _Contents(NamedTuple):
  """What the packets of a video tell without decoding."""

  times: npt.NDArray[np.float64]  # of the frames that are shown, in seconds
  stamps: list[int]  # the same in the stream's time base; empty if unknown
  end: float  # of the last frame, in seconds


def read_sound(
  path: pathlib.Path, rate: int = media.RATE
) -> npt.NDArray[np.int16]:
  """Reads the sound of a video: the mean of its channels, resampled, [n] int16.

  Channels and rate may change within it.

  Raises:
    SkipError: if it is missing or damaged, or has no sound.
  """
  parts: list[tuple[list[npt.NDArray[np.float32]], int]] = []
  layout = None
  with _opened(path) as container:
    if not container.streams.audio:
      raise audit.SkipError('no_audio', f'{path} has no sound')
    count = 0
    for frame in container.decode(container.streams.audio[0]):
      now = frame.format.name, frame.layout.name, frame.sample_rate
      if now != layout:
        # Planar float, [channels, samples], whatever the codec's format.
        layout, resampler = now, av.AudioResampler(format='fltp')
        parts.append(([], frame.sample_rate))
      count += frame.samples
      media.check_length(path, count, frame.sample_rate)
      for each in resampler.resample(frame):
        parts[-1][0].append(each.to_ndarray().mean(axis=0))
  joined = [(np.concatenate(blocks), own) for blocks, own in parts if blocks]
  return media.stored(path, joined, rate)


def read_frames(path: pathlib.Path, choose: media.Choose) -> list[bytes]:
  """Reads some frames of a video, upright, as JPEG.

  If the frames have the constant rate that the header says, they are chosen by
  number. Otherwise they are chosen by time, as if the video had a thousand
  frames a second, each of which shows what is on the screen at its time.

  Args:
    path: A container that FFmpeg knows.
    choose: Which frames to keep. A number may occur more than once.

  Raises:
    SkipError: if it is missing, damaged or truncated, or has no frames.
  """
  with _opened(path) as container:
    if not container.streams.video:
      raise audit.SkipError('no_video', f'{path} has no picture')
    stream = container.streams.video[0]
    if stream.codec_context is None:
      raise audit.SkipError(
        'corrupt', f'{path} has pictures of a codec that FFmpeg does not know'
      )
    if stream.width * stream.height > _pictures.MOST_PIXELS:
      raise audit.SkipError(
        'corrupt', f'{path} has frames of {stream.width} x {stream.height}'
      )
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    contents = _contents(path, container, stream, rate)
  numbers = _chosen(contents, rate, choose)
  keys = [contents.stamps[n] for n in numbers] if contents.stamps else numbers
  wanted = set(keys)
  kept: dict[int, bytes] = {}
  with _opened(path) as container:
    # Frames may be larger than the header says.
    container.streams.video[0].codec_context.options = _LIMITS
    for number, frame in enumerate(container.decode(video=0)):
      key = frame.pts if contents.stamps else number
      if key in wanted and key not in kept:
        upright = np.rot90(
          frame.to_ndarray(format='rgb24'), round(frame.rotation / 90)
        )
        kept[key] = pictures.jpeg(np.ascontiguousarray(upright))
      if len(kept) == len(wanted):
        break
  if len(kept) < len(wanted):
    raise audit.SkipError(
      'corrupt',
      f'{path} has {len(contents.times)} frames, of which not all decode',
    )
  return [kept[key] for key in keys]


def _contents(
  path: pathlib.Path, container: Any, stream: Any, rate: float
) -> _Contents:
  """Reads the time stamps of all packets; skips a video that is truncated."""
  stamps: list[int | None] = []
  spans: list[tuple[float, float]] = []  # of all streams: sound may be longer
  shown = 0.0
  for packet in container.demux():
    # Frames that an edit list cuts off are needed for decoding, but not shown.
    if not packet.size or packet.is_discard:
      continue
    duration = float((packet.duration or 0) * packet.time_base)
    if packet.stream is stream:
      stamps.append(packet.pts)
      shown = duration = duration or (1 / rate if rate > 0 else 0.0)
    if packet.pts is not None:
      begin = float(packet.pts * packet.time_base)
      spans.append((begin, begin + duration))
  if not stamps:
    raise audit.SkipError('too_short', f'{path} has no frame')
  known = sorted(stamp for stamp in stamps if stamp is not None)
  if len(set(known)) == len(stamps):
    begin = min(begin for begin, _ in spans)
    times = np.array([float(s * stream.time_base) for s in known]) - begin
  elif rate > 0:  # stamps are missing or repeated
    known, begin = [], 0.0
    times = np.arange(len(stamps)) / rate
    spans.append((0.0, len(stamps) / rate))
  else:
    raise audit.SkipError(
      'corrupt', f'{path} has no time stamps and no frame rate'
    )
  declared = (container.duration or 0) / av.time_base
  there = max(end for _, end in spans) - begin
  is_short = declared - there > min(_LOST_SECONDS, _LOST_SHARE * declared)
  # The duration in a header is only what its writer expected.
  if is_short and not endings.is_whole_video(path):
    raise audit.SkipError(
      'corrupt', f'{path} has {there:.1f} s of {declared:.1f} s: truncated'
    )
  end = float(times[-1]) + shown
  if end > media.MOST_SECONDS:
    raise audit.SkipError('corrupt', f'{path} has {end:.0f} s of pictures')
  return _Contents(times, known, end)


def _chosen(
  contents: _Contents, rate: float, choose: media.Choose
) -> list[int]:
  """Returns the numbers of the frames to keep, chosen by number or by time."""
  count = len(contents.times)
  if rate > 0:
    since_first = contents.times - contents.times[0]
    drift = np.abs(since_first - np.arange(count) / rate).max()
    if drift <= 0.5 / rate and contents.times[0] <= _LATE_SECONDS:
      return list(choose(count, rate))
  ticks = choose(max(round(contents.end * _TICKS), 1), float(_TICKS))
  # Stamps are rounded; allow for it.
  at = np.asarray(ticks) / _TICKS + 1e-6
  return (
    (np.searchsorted(contents.times, at, side='right') - 1).clip(0).tolist()
  )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """Opens a video with FFmpeg; errors of the file become `SkipError`."""
  media.check(path)
  with media.decoding(path):
    try:
      with av.open(
        # Without 'file:', a name like an address would be taken for one.
        f'file:{path}',
        **_TITLES,
        options=_LIMITS,
        container_options={
          'format_whitelist': _FORMATS,
          'protocol_whitelist': 'file',
        },
      ) as container:
        yield container
    except av.FFmpegError as error:
      # Decoders use the system's error numbers for damage, even that of a
      # missing permission. Only these two cannot be the file's fault:
      # `media.check` has opened it before.
      if error.errno in (errno.EMFILE, errno.ENFILE):
        raise
      raise audit.SkipError('corrupt', f'{path}: {error}') from error
