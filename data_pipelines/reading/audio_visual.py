"""Clips of sound and pictures: their features, and finding frames."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import _extra
from data_pipelines.reading import manual
from data_pipelines.reading import media
from data_pipelines.reading import pictures
from data_pipelines.reading import videos

with _extra.data_extra():
  import tensorflow_datasets as tfds


def features(
  classes: Sequence[str], texts: Sequence[str], **others: Any
) -> dict[str, Any]:
  """Says what is stored of a clip.

  `audio` [n] int16, mono, `media.RATE` samples a second; `frames` [t], the
  bytes of a JPEG each; `label`, a number into the classes; and what is asked
  for.
  """
  return {
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


def first_that_is(*paths: pathlib.Path) -> pathlib.Path:
  """Chooses between places where a file or folder may be.

  Args:
    *paths: The places, the preferred one first; suffixes may be spelled with
      capital letters, too.

  Returns:
    The first that holds something; or else the first that is there, if empty,
    a folder without pictures, or a pointer of Git LFS; or else the first.
  """
  there = [
    spelled
    for path in paths
    for suffix in dict.fromkeys(
      (path.suffix, path.suffix.upper(), path.suffix.title())
    )
    if (spelled := path.with_suffix(suffix)).exists()
  ]
  whole = [
    path for path in there if manual.is_whole(path) or pictures.paths(path)
  ]
  return (*whole, *there, *paths)[0]


def read_frames(
  video: pathlib.Path, folder: pathlib.Path, choose: media.Choose
) -> list[bytes]:
  """Reads frames of a video, or those that somebody has extracted from it.

  As `videos.read_frames`, unless the video is not there, empty or a pointer,
  and there is a folder of JPEG files.
  """
  if not manual.is_whole(video) and pictures.paths(folder):
    return pictures.read_folder(folder)
  return videos.read_frames(video, choose)
