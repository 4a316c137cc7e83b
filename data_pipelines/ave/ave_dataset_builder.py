"""TFDS builder of AVE."""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.ave import tree
from data_pipelines.reading import audio_visual
from data_pipelines.reading import builder
from data_pipelines.reading import media
from data_pipelines.reading import videos


class Builder(builder.FolderBuilder):
  """Audio-visual events: sound, ten frames, 28 classes, a label each second.

  Every element has `audio` [n] int16 at 16 kHz; `frames` [10] JPEG bytes;
  `label` int64, the class of the event; `segment_labels` [10] int64, 28 where
  there is no event; `start` and `end` int64, in seconds; and the text
  `clip_id`.
  """

  BUILDER_CONFIGS = builder.configs(
    official='The official lists, every video in one of them only.'
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Unpack AVE_Dataset.zip. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      audio_visual.features(
        tree.CLASSES,
        texts=('clip_id',),
        segment_labels=tfds.features.Tensor(
          shape=(tree.SECONDS,), dtype=np.int64
        ),
        start=tfds.features.Scalar(dtype=np.int64),
        end=tfds.features.Scalar(dtype=np.int64),
      ),
      homepage='https://github.com/YapengTian/AVE-ECCV18',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the videos of each split; see `builder.FolderBuilder`."""
    root = tree.folder(root)
    read = functools.partial(_example, root / 'AVE')
    return {
      split: builder.Part(items, read, tree.EXPECTED[split])
      for split, items in tree.splits(root).items()
    }


def _example(
  folder: pathlib.Path, video: str, event: tree.Event
) -> dict[str, Any]:
  path = audio_visual.first_that_is(folder / f'{video}.mp4')
  return {
    'audio': videos.read_sound(path),
    'frames': videos.read_frames(path, media.ten_half_seconds),
    'clip_id': video,
    'segment_labels': event.segment_labels,
    **event._asdict(),
  }
