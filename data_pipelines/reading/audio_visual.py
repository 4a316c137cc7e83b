"""Clips of sound and pictures: their features, and where their frames are."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import _extra
from data_pipelines.reading import media

with _extra.data_extra():
  import tensorflow_datasets as tfds


def features(
  classes: Sequence[str], texts: Sequence[str], **others: Any
) -> tfds.features.FeaturesDict:
  """Describes what is stored of a clip.

  Args:
    classes: Names of the classes; a label is a number into them.
    texts: Names of entries that are text.
    **others: Further features.

  Returns:
    `audio` [n] int16, mono, `media.RATE` samples a second; `frames` [t], the
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
  """Returns the first of several paths that exists, or else the first."""
  return next((path for path in paths if path.exists()), paths[0])


def read_frames(
  video: pathlib.Path, pictures: pathlib.Path, choose: media.Choose
) -> list[bytes]:
  """Reads frames of a video, or those that somebody has extracted from it.

  Args:
    video: The video; taken if it is there.
    pictures: A folder of JPEG files; taken otherwise.
    choose: Which frames of the video; see `media.read_frames`.

  Returns:
    JPEG bytes of each.

  Raises:
    SkipError: if neither can be read.
  """
  if pictures.is_dir() and not video.exists():
    return media.read_pictures(pictures)
  return media.read_frames(video, choose)
