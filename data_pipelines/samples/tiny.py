"""Tiny sounds, pictures and videos that tell their class, for `sample_tree`."""

import colorsys
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import media

with _extra.data_extra():
  import av
  import soundfile

# FFmpeg's names of the codecs in the published files, by suffix.
_CODECS = {'.flv': 'flv', '.mp4': 'libx264'}


def sound(
  label: int,
  num_classes: int,
  seconds: float,
  random: np.random.RandomState,
  rate: int = media.RATE,
) -> npt.NDArray[np.float32]:
  """Makes a tone whose pitch tells the class, plus noise half as strong.

  The classes' pitches are spread from 200 to 6,000 Hz.

  Returns:
    [n], in [-1, 1], `rate` samples a second.
  """
  pitch = 200 * 30 ** (label / max(num_classes - 1, 1))
  time = np.arange(round(seconds * rate)) / rate
  tone = np.sin(2 * np.pi * (pitch * time + random.uniform()))
  noise = random.normal(0, 0.15, len(time))
  return np.clip(0.3 * tone + noise, -1, 1).astype(np.float32)


def pictures(
  label: int,
  num_classes: int,
  count: int,
  random: np.random.RandomState,
  height: int = 48,
  width: int = 64,
) -> list[npt.NDArray[np.uint8]]:
  """Makes noisy pictures [height, width, 3], whose hue tells the class."""
  colour = 200 * np.array(colorsys.hsv_to_rgb(label / num_classes, 0.8, 1))
  noise = random.normal(0, 20, (count, height, width, 3))
  return list((colour + noise).clip(0, 255).astype(np.uint8))


def write_wav(
  path: pathlib.Path,
  values: npt.NDArray[np.float32],
  rate: int = media.RATE,
) -> None:
  """Writes a 16-bit WAV file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, values, rate, subtype='PCM_16')


def write_video(
  path: pathlib.Path,
  pictures: list[npt.NDArray[np.uint8]],
  rate: int,
  values: npt.NDArray[np.float32] | None = None,
) -> None:
  """Writes a video in the format that its suffix names.

  Args:
    path: Ends in .flv or .mp4.
    pictures: The frames; their sides are even.
    rate: Frames a second.
    values: The sound at `media.RATE`, for .mp4; None for a silent video.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w') as container:
    video: Any = container.add_stream(_CODECS[path.suffix], rate=rate)
    video.height, video.width = pictures[0].shape[:2]
    video.pix_fmt = 'yuv420p'
    video.options = {'preset': 'veryfast'}  # of libx264: takes half the time
    shown = [av.VideoFrame.from_ndarray(each, 'rgb24') for each in pictures]
    streams: list[tuple[Any, list[Any]]] = [(video, shown)]
    if values is not None:
      audio: Any = container.add_stream('aac', rate=media.RATE)
      audio.layout = 'mono'
      # A sample should be small; FFmpeg's default is three times as much.
      audio.bit_rate = 24_000
      audio.options = {'aac_coder': 'fast'}  # takes half the time
      frame = av.AudioFrame.from_ndarray(values[None], 'fltp', 'mono')
      frame.sample_rate = media.RATE
      streams.append((audio, [frame]))
    for stream, frames in streams:
      for each in [*frames, None]:
        container.mux(stream.encode(each))
