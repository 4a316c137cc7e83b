"""The folder that AV-MNIST is rebuilt from: MNIST and spoken digits.

It must not import `tree`, the folder of the published arrays, which imports
this module to write the samples of both.
"""

import gzip
import logging
import math
import pathlib
import re
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.reading import manual
from data_pipelines.samples import tiny

NUM_RECORDINGS = 3_000
"""6 speakers, 10 digits, 50 times."""

TREE = """\
  mnist/train-images-idx3-ubyte  60,000 pictures of MNIST, as it is published
  mnist/train-labels-idx1-ubyte
  mnist/t10k-images-idx3-ubyte   10,000 pictures
  mnist/t10k-labels-idx1-ubyte
  recordings/<digit>_<speaker>_<index>.wav
                                 3,000 files of the Free Spoken Digit Dataset
The files of MNIST may end in .gz, be spelt train-images.idx3-ubyte, and lie
beside the folder recordings; that one may lie in free-spoken-digit-dataset."""

# MNIST's names of the two parts.
_PARTS = {'train': 'train', 'test': 't10k'}
_PIXELS = (28, 28)
_MOST_ROWS = 1_000_000
_GZIP = b'\x1f\x8b'
_RECORDING = re.compile(r'([0-9])_([A-Za-z]+)_([0-9]{1,9})\.wav', re.IGNORECASE)


class Digits(NamedTuple):
  """One part of MNIST; row i of both arrays belongs together."""

  image: npt.NDArray[np.uint8]  # [rows, 784]
  label: npt.NDArray[np.int64]  # [rows], 0 to 9


def read(root: pathlib.Path, part: str) -> Digits:
  """Reads one part of MNIST.

  Args:
    root: The folder that has the tree.
    part: 'train' or 'test'.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file is truncated or has another format, or pictures and
      labels do not fit together.
  """
  folder = root / 'mnist' if (root / 'mnist').is_dir() else root
  paths = []
  arrays = []
  for kind, rank in (('images', 3), ('labels', 1)):
    name = f'{_PARTS[part]}-{kind}'
    names = (f'{name}-idx{rank}-ubyte', f'{name}.idx{rank}-ubyte')
    paths.append(
      manual.file(folder, (*names, *(f'{each}.gz' for each in names)), TREE)
    )
    arrays.append(_read_idx(paths[-1], rank))
  image, label = arrays
  if len(image) != len(label):
    raise ValueError(
      f'{paths[0]} has pictures of shape {image.shape}; expected'
      f' {(len(label), *_PIXELS)}, for the {len(label)} labels of'
      f' {paths[1].name}.'
    )
  return Digits(image.reshape(len(label), -1), checked(label, str(paths[1])))


def checked(label: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
  """Returns labels after checking that they are digits."""
  wrong = np.flatnonzero(~np.isin(label, np.arange(10)))
  if wrong.size:
    raise ValueError(
      f'{where} has {wrong.size} labels that are no digits, the first of them'
      f' {label[wrong[0]]} in row {wrong[0]}.'
    )
  return label.astype(np.int64)


def _read_idx(path: pathlib.Path, rank: int) -> npt.NDArray[np.uint8]:
  """Reads an idx file: bytes 0, 0, 8, rank; sizes, big-endian; the values.

  A few megabytes of gzip can unpack to gigabytes. So no more is unpacked than
  the sizes say, and sizes that MNIST cannot have are refused.
  """
  magic = bytes([0, 0, 8, rank])
  with path.open('rb') as raw:
    # By content, not by name: browsers unpack .gz files and keep the name.
    is_packed = raw.read(2) == _GZIP
    raw.seek(0)
    file = gzip.GzipFile(fileobj=raw) if is_packed else raw
    try:
      header = file.read(4 + 4 * rank)
      if not header.startswith(magic) or len(header) < 4 + 4 * rank:
        raise ValueError(
          f'{path} begins with the bytes {list(header[:4])}; expected'
          f' {list(magic)}, an idx file of rank {rank}. Fetch it again.'
        )
      shape = tuple(np.frombuffer(header[4:], '>u4').tolist())
      if shape[0] > _MOST_ROWS or shape[1:] != _PIXELS[: rank - 1]:
        raise ValueError(
          f'{path} has the shape {shape}; expected up to {_MOST_ROWS:,} rows of'
          f' the shape {_PIXELS[: rank - 1]}. Fetch it again.'
        )
      size = math.prod(shape)
      data = file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
        f'{path} is truncated or damaged: {error}. Fetch it again.'
      ) from error
  if len(data) != size:
    more = 'more than ' if len(data) > size else ''
    raise ValueError(
      f'{path} has {more}{min(len(data), size)} values; expected {size}, of'
      f' shape {shape}, as its header says. Fetch it again.'
    )
  return np.frombuffer(data, np.uint8).reshape(shape)


def recordings(root: pathlib.Path) -> dict[str, dict[int, list[pathlib.Path]]]:
  """Lists the spoken digits: split -> digit -> files, sorted by name.

  No file is in two splits; every speaker is in all of them.

  Raises:
    FileNotFoundError: if the folder is missing.
    ValueError: if the name of a file does not fit, or a split has no recording
      of a digit.
  """
  folder = root / 'recordings'
  if not folder.is_dir():
    folder = root / 'free-spoken-digit-dataset' / 'recordings'
  if not folder.is_dir():
    raise FileNotFoundError(
      f'{root} has no folder recordings. Expected:\n{TREE}\nFound:'
      f' {manual.found(root)}'
    )
  listed: dict[str, dict[int, list[pathlib.Path]]] = {
    split: {digit: [] for digit in range(10)}
    for split in ('train', 'validation', 'test')
  }
  count = 0
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() != '.wav' or path.name.startswith('.'):
      continue
    parts = _RECORDING.fullmatch(path.name)
    if not parts:
      raise ValueError(
        f'{path} is no recording of the Free Spoken Digit Dataset; expected a'
        ' name <digit>_<speaker>_<index>.wav, as 7_jackson_32.wav. Move it'
        ' elsewhere or rename it.'
      )
    # Recordings 0 to 4 of a speaker and digit are the test split by the data
    # set's own rule. We take 5 to 9 of its training split for validation.
    index = int(parts[3])
    split = 'test' if index < 5 else 'validation' if index < 10 else 'train'
    listed[split][int(parts[1])].append(path)
    count += 1
  for split, digits in listed.items():
    silent = [digit for digit, paths in digits.items() if not paths]
    if silent:
      raise ValueError(
        f'{folder} has no recording of {silent} for {split}. Expected indices'
        ' 0 to 4 (test), 5 to 9 (validation) and 10 to 49 (train) of every'
        ' digit.'
      )
  if count != NUM_RECORDINGS:
    logging.getLogger(__name__).warning(
      '%s has %d recordings; the published data set has %d. Which recording'
      ' goes with a picture depends on the list of them.',
      folder,
      count,
      NUM_RECORDINGS,
    )
  return listed


def write_sample(root: pathlib.Path, train: int, test: int) -> None:
  """Writes a tiny tree: a pattern for each digit, tones in place of voices."""
  random = np.random.RandomState(1)
  patterns = random.uniform(0, 255, (10, *_PIXELS))
  (root / 'mnist').mkdir(parents=True, exist_ok=True)
  for part, rows in (('train', train), ('test', test)):
    label = random.randint(0, 10, rows)
    image = patterns[label] + random.normal(0, 60, (rows, *_PIXELS))
    for kind, values in (('images', image.clip(0, 255)), ('labels', label)):
      name = f'{_PARTS[part]}-{kind}-idx{values.ndim}-ubyte.gz'
      (root / 'mnist' / name).write_bytes(gzip.compress(_idx(values)))
  for digit in range(10):
    for speaker in ('george', 'jackson'):
      for index in (0, 1, 5, 6, *range(10, 16)):
        seconds = random.uniform(0.2, 0.5)
        tiny.write_wav(
          root / 'recordings' / f'{digit}_{speaker}_{index}.wav',
          # The first 10 of 13 pitches are below half of the rate.
          tiny.sound(digit, 13, seconds, random, rate=8_000),
          rate=8_000,
        )


def _idx(values: npt.NDArray[Any]) -> bytes:
  return (
    bytes([0, 0, 8, values.ndim])
    + np.array(values.shape, '>u4').tobytes()
    + values.astype(np.uint8).tobytes()
  )
