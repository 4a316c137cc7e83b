"""TFDS builder of Kinetics-Sounds."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.kinetics_sounds import tree
from data_pipelines.reading import audio_visual
from data_pipelines.reading import builder


class Builder(builder.FolderBuilder):
  """Actions that are seen and heard: sound, ten frames, 31 classes.

  Every element has `audio` [n] int16 at 16 kHz, `frames` [t] JPEG bytes,
  `label` int64, and the text `clip_id`.
  """

  BUILDER_CONFIGS = builder.configs(
    field="The field's lists of clips; without them, the 31 classes of"
    ' Kinetics-400, its validation part as test.'
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put clips of Kinetics-400 and lists of them in a folder. Expected:\n'
    + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      audio_visual.features(tree.CLASSES, texts=('clip_id',)),
      homepage='https://github.com/cvdfoundation/kinetics-dataset',
      license='CC BY 4.0 (the annotations of Kinetics)',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the clips of each split; see `builder.FolderBuilder`."""
    return tree.parts(root)
