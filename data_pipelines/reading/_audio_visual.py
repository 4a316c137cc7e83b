"""What the audio-visual data sets have in common: features of an element."""

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import _extra
from data_pipelines.reading import _media

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it without saying so, and fails only when it first does.
  importlib.import_module('importlib_resources')


def features(
  classes: Sequence[str], texts: Sequence[str], **others: Any
) -> tfds.features.FeaturesDict:
  """The features of a clip.

  Args:
    classes: names of the classes; a label is a number into them.
    texts: names of entries that are text.
    **others: further features.

  Returns:
    `audio` [n] int16, mono, `_media.RATE` samples a second; `frames` [t], the
    bytes of a JPEG each; `label`; and what was asked for.
  """
  return tfds.features.FeaturesDict(
    {
      # Bytes, or every sample would be stored as an integer of varying length.
      'audio': tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding='bytes'
      ),
      'frames': tfds.features.Sequence(
        tfds.features.Tensor(shape=(), dtype=np.object_)
      ),
      'label': tfds.features.ClassLabel(names=list(classes)),
      **{name: tfds.features.Text() for name in texts},
      **others,
    }
  )


def first_that_is(*paths: pathlib.Path) -> pathlib.Path:
  """The first of several paths that exists, or else the first of all."""
  return next((path for path in paths if path.exists()), paths[0])


def read_frames(
  video: pathlib.Path, pictures: pathlib.Path, choose: Any
) -> list[bytes]:
  """Frames of a video, or those that somebody has extracted from it.

  Args:
    video: the video; taken if it is there.
    pictures: a folder of JPEG files; taken otherwise.
    choose: see `_media.read_frames`.

  Returns:
    JPEG bytes of each.

  Raises:
    SkipError: if neither can be read.
  """
  if pictures.is_dir() and not video.exists():
    return _media.read_pictures(pictures)
  return _media.read_frames(video, choose)
