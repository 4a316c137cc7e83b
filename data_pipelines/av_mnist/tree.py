"""The arrays of AV-MNIST as MultiBench publishes them, and a tiny copy."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.av_mnist import digits
from data_pipelines.reading import manual
from data_pipelines.reading import media

IMAGE_SHAPE = (28, 28, 1)
AUDIO_SHAPE = (112, 112, 1)
NUM_CLASSES = 10
EXPECTED = {'train': 55_000, 'validation': 5_000, 'test': 10_000}
"""Rows of the published data set."""

TREE = """\
  image/train_data.npy   (60000, 784), 0 to 255
  image/test_data.npy    (10000, 784)
  audio/train_data.npy   (60000, 112, 112), 0 to 255
  audio/test_data.npy    (10000, 112, 112)
  train_labels.npy       (60000,), 0 to 9
  test_labels.npy        (10000,)
or these in a folder avmnist; the folder image may be called images."""


class Arrays(NamedTuple):
  """One part of the published tree; row i of all arrays belongs together."""

  image: npt.NDArray[Any]  # [rows, 784], 0 to 255
  audio: npt.NDArray[Any]  # [rows, 112, 112], 0 to 255
  label: npt.NDArray[np.int64]  # [rows], 0 to 9


def read(root: pathlib.Path, part: str) -> Arrays:
  """Opens one part, without reading pictures and spectrograms into memory.

  Args:
    root: The folder that has the tree, or has it in a folder `avmnist`.
    part: 'train' or 'test'.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file is truncated, not an array, or has an unexpected
      shape, or if a label is not a digit.
  """
  if (root / 'avmnist').is_dir():
    root = root / 'avmnist'

  def load(*names: str) -> npt.NDArray[Any]:
    path = manual.file(root, names, TREE)
    try:
      array = np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception as error:  # damaged headers raise many kinds of errors
      if media.is_of_the_machine(error):
        raise
      raise ValueError(
        f'{path} is truncated or no array of NumPy: {error}'
      ) from error
    if array.dtype.kind not in 'biuf':
      raise ValueError(f'{path} holds {array.dtype}; expected numbers.')
    return array

  labels = load(f'{part}_labels.npy')
  image = load(f'image/{part}_data.npy', f'images/{part}_data.npy')
  audio = load(f'audio/{part}_data.npy')
  rows = labels.size
  for name, array, shape in (
    ('labels', labels, (rows,)),
    ('image', image, (rows, IMAGE_SHAPE[0] * IMAGE_SHAPE[1])),
    ('audio', audio, (rows, *AUDIO_SHAPE[:2])),
  ):
    if array.shape != shape:
      raise ValueError(
        f'{name} of {part} in {root} has shape {array.shape}; expected {shape},'
        f' for {rows} labels. Expected:\n{TREE}'
      )
  label = digits.checked(labels, f'{part}_labels.npy in {root}')
  return Arrays(image, audio, label)


def write_sample(root: pathlib.Path, train: int = 240, test: int = 60) -> None:
  """Writes a tiny tree whose labels can be learned from either modality.

  Every digit has its own picture and spectrogram, with noise on both, more on
  the sound. The files for the configuration `rebuilt`, with as many other
  pictures, are written beside the arrays, so that both can be tried.
  """
  random = np.random.RandomState(0)
  pictures = random.uniform(0, 255, (NUM_CLASSES, 784))
  # Smooth in time and frequency, as spectrograms are.
  sounds = random.uniform(0, 255, (NUM_CLASSES, 14, 14))
  sounds = sounds.repeat(8, axis=1).repeat(8, axis=2)
  for part, rows in (('train', train), ('test', test)):
    label = random.randint(0, NUM_CLASSES, rows)
    for name, patterns, noise in (
      ('image', pictures, 60.0),
      ('audio', sounds, 120.0),
    ):
      values = patterns[label] + random.normal(
        0, noise, (rows, *patterns.shape[1:])
      )
      path = root / name / f'{part}_data.npy'
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, values.clip(0, 255).astype(np.float32))
    np.save(root / f'{part}_labels.npy', label.astype(np.float32))
  digits.write_sample(root, train, test)
