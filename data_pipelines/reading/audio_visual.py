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


def whole_or_first(paths: Sequence[pathlib.Path]) -> pathlib.Path:
  """Chooses the first path that has content, or else the first.

  Empty files, pointers of Git LFS, broken links, and folders without pictures
  have none.
  """
  if len(paths) == 1:  # which need not be looked at
    return paths[0]
  whole = (
    path for path in paths if manual.is_whole(path) or pictures.paths(path)
  )
  return next(whole, paths[0])


def first_that_is(*paths: pathlib.Path) -> pathlib.Path:
  """Chooses among paths where a file or folder may be, as `whole_or_first`.

  Those that exist come first; on disk, suffixes may also be in capital letters.
  """
  existing = [
    spelled
    for path in paths
    for suffix in dict.fromkeys(
      (path.suffix, path.suffix.upper(), path.suffix.title())
    )
    if (spelled := path.with_suffix(suffix)).exists()
  ]
  return whole_or_first(existing or paths)


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
