"""TFDS builder of VGGSound."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.reading import audio_visual
from data_pipelines.reading import builder
from data_pipelines.vggsound import labels
from data_pipelines.vggsound import tree


class Builder(builder.FolderBuilder):
  """Sounds and their visible sources: one frame a second, 309 classes.

  Every element has `audio` [n] int16 at 16 kHz, `frames` [t] JPEG bytes,
  `label` int64, and the text `clip_id`.
  """

  BUILDER_CONFIGS = builder.configs(
    official='The official split, validation carved from its train.'
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put the official list and the clips in a folder. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      audio_visual.features(labels.CLASSES, texts=('clip_id',)),
      homepage='https://www.robots.ox.ac.uk/~vgg/data/vggsound/',
      license='CC BY 4.0',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the clips of each split; see `builder.FolderBuilder`."""
    return tree.parts(root)
