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

# Samples that are read at a time.
_BLOCK = 2**16
# What writers leave as a length when they write to a pipe and cannot go back:
# 0, or something near the largest number, signed (SoX) or not.
_UNKNOWN = 2**31 - 2**16


def read(path: pathlib.Path, rate: int = media.RATE) -> npt.NDArray[np.int16]:
  """Reads a file of sound: mean of its channels, resampled.

  Args:
    path: Any format that libsndfile knows, and FLAC that was written to a pipe
      and so has no length, which it refuses and FFmpeg reads.
    rate: Samples a second to resample to, where the file has another number.

  Returns:
    [n] int16.

  Raises:
    SkipError: if it is missing or damaged, lost its end, which WAV, FLAC and
      what `endings` knows tell, or has no sample.
  """
  media.check(path)
  if endings.is_lost(path):
    raise audit.SkipError('corrupt', f'{path} has lost its end: truncated')
  if _is_flac_without_length(path):
    return videos.read_sound(path, rate)
  with media.decoding(path), soundfile.SoundFile(_whole(path)) as file:
    media.check_length(path, 0, file.samplerate)
    blocks = []
    # In blocks, because some headers do not say how much there is, or lie.
    while len(block := file.read(_BLOCK, dtype='float32', always_2d=True)):
      blocks.append(block.mean(axis=1))
      media.check_length(path, len(blocks) * _BLOCK - _BLOCK, file.samplerate)
    parts = [(np.concatenate(blocks), file.samplerate)] if blocks else []
  return media.stored(path, parts, rate)


def _whole(path: pathlib.Path) -> pathlib.Path | BinaryIO:
  """Returns a file that says how long it is; one without its end is skipped."""
  with path.open('rb') as file:
    found = _data_of_riff(file)
    if found is None:
      return path
    start, size, unpadded = found
    there = path.stat().st_size - start
    says = 0 < size <= there or there == 0
    if says and not unpadded:
      return path
    if not says and 0 < size < _UNKNOWN:
      raise audit.SkipError(
        'corrupt', f'{path} has {there} bytes of sound of {size}: truncated'
      )
    file.seek(0)
    content = bytearray(file.read())
  if not says:
    content[start - 4 : start] = there.to_bytes(4, 'little')
  for place in reversed(unpadded):
    content.insert(place, 0)
  content[4:8] = (len(content) - 8).to_bytes(4, 'little')
  return io.BytesIO(content)


def _data_of_riff(file: Any) -> tuple[int, int, list[int]] | None:
  """Where the samples of a WAV file begin, and how long it says they are.

  And where the zero is missing that belongs behind an odd number of bytes.
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
  """Whether a FLAC's number of samples, of 36 bits, is 0: unknown."""
  with path.open('rb') as file:
    header = file.read(26)
  samples = int.from_bytes(header[21:], 'big') & (2**36 - 1)
  return header[:4] == b'fLaC' and len(header) == 26 and samples == 0
