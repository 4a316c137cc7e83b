"""Reads sound files: WAV (however written), FLAC and others."""

import io
import pathlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import audit
from data_pipelines.reading import endings
from data_pipelines.reading import media
from data_pipelines.reading import videos

with _extra.data_extra():
  import soundfile

# Samples read at a time.
_BLOCK = 2**16


def read(path: pathlib.Path, rate: int = media.RATE) -> npt.NDArray[np.int16]:
  """Reads a sound file: the mean of its channels, resampled, [n] int16.

  Args:
    path: Any format that libsndfile knows. M4A, and FLAC without a length, as
      written to a pipe, are read by FFmpeg, since libsndfile refuses them.
    rate: Samples a second; a file with another rate is resampled.

  Raises:
    SkipError: if it is missing, damaged or truncated, or has no samples.
      Truncation is seen in WAV, in FLAC and in the formats of `endings`.
  """
  media.check(path)
  if endings.is_cut_sound(path):
    raise audit.SkipError('corrupt', f'{path} has lost its end: truncated')
  if path.suffix.lower() == '.m4a' or _is_flac_without_length(path):
    return videos.read_sound(path, rate)
  with media.decoding(path), soundfile.SoundFile(_whole(path)) as file:
    media.check_length(path, 0, file.samplerate)
    blocks = []
    # In blocks, because headers may give no length, or a wrong one.
    while len(block := file.read(_BLOCK, dtype='float32', always_2d=True)):
      blocks.append(block.mean(axis=1))
      media.check_length(path, len(blocks) * _BLOCK - _BLOCK, file.samplerate)
    parts = [(np.concatenate(blocks), file.samplerate)] if blocks else []
  return media.stored(path, parts, rate)


def _whole(path: pathlib.Path) -> pathlib.Path | BinaryIO:
  """Returns the file, or a copy in memory with a repaired WAV header."""
  with path.open('rb') as file:
    found = _data_of_riff(file)
    if found is None:
      return path
    start, size, unpadded = found
    available = path.stat().st_size - start
    has_length = 0 < size <= available or available == 0
    if has_length and not unpadded:
      return path
    if not has_length and 0 < size < endings.UNKNOWN:
      raise audit.SkipError(
        'corrupt', f'{path} has {available} bytes of sound of {size}: truncated'
      )
    file.seek(0)
    content = bytearray(file.read())
  if not has_length:
    content[start - 4 : start] = available.to_bytes(4, 'little')
  for place in reversed(unpadded):
    content.insert(place, 0)
  content[4:8] = (len(content) - 8).to_bytes(4, 'little')
  return io.BytesIO(content)


def _data_of_riff(file: Any) -> tuple[int, int, list[int]] | None:
  """Finds the samples of a WAV file; None if it has none, or is not WAV.

  Returns:
    Where they begin, how many bytes the header gives them, and where the zero
    is missing that should pad a chunk with an odd number of bytes.
  """
  header = file.read(12)
  if header[:4] != b'RIFF' or header[8:] != b'WAVE':
    return None
  start = 12
  unpadded: list[int] = []
  while len(chunk := file.read(8)) == 8:
    start += 8
    size = int.from_bytes(chunk[4:], 'little')
    if chunk[:4] == b'data':
      return start, size, unpadded
    start += size
    file.seek(start)
    if size % 2 and file.read(1) == b'\0':
      start += 1
    elif size % 2:
      unpadded.append(start)
    file.seek(start)
  return None


def _is_flac_without_length(path: pathlib.Path) -> bool:
  """Whether the number of samples (36 bits) in a FLAC is 0, for unknown."""
  with path.open('rb') as file:
    header = file.read(26)
  samples = int.from_bytes(header[21:], 'big') & (2**36 - 1)
  return header[:4] == b'fLaC' and len(header) == 26 and samples == 0
