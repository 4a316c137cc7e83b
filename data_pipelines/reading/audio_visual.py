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
  """Describes a stored clip.

  `audio` [n] int16, mono, `media.RATE` samples a second; `frames` [t], the
  bytes of a JPEG each; `label`, an index into the classes; and the texts and
  others that the caller names.
  """
  return {
    # As bytes: else every sample is stored as an integer of variable length.
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
  """Chooses among paths where a file or folder may be.

  Args:
    *paths: The paths, the preferred one first. On disk, suffixes may also be in
      capital letters.

  Returns:
    The first that has content. If there is none, the first that exists, though
    it is empty, a folder without pictures, or a pointer of Git LFS. If none
    exists, the first of all.
  """
  existing = [
    spelled
    for path in paths
    for suffix in dict.fromkeys(
      (path.suffix, path.suffix.upper(), path.suffix.title())
    )
    if (spelled := path.with_suffix(suffix)).exists()
  ]
  whole = [
    path for path in existing if manual.is_whole(path) or pictures.paths(path)
  ]
  return (*whole, *existing, *paths)[0]


def read_frames(
  video: pathlib.Path, folder: pathlib.Path, choose: media.Choose
) -> list[bytes]:
  """Reads frames of a video, or frames that were extracted from it.

  The video is read by `videos.read_frames`. If it is missing, empty or a
  pointer of Git LFS, and the folder has JPEG files, all of these are read.
  """
  if not manual.is_whole(video) and pictures.paths(folder):
    return pictures.read_folder(folder)
  return videos.read_frames(video, choose)
