"""TFDS builder of CMU-MOSEI and CMU-MOSI."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.cmu_mosei import tree
from data_pipelines.reading import builder
from data_pipelines.reading import feature_sequences
from data_pipelines.reading import manual


class Builder(builder.FolderBuilder):
  """Spoken opinions, as features of words, voice and face, and a sentiment.

  Every element has `vision`, `audio` and `text`, [t, d] float32, as published,
  padded on the left; `score` float32, from -3 (negative) to 3; and the text
  `clip_id`.
  """

  BUILDER_CONFIGS = builder.configs(
    mosei='CMU-MOSEI; step i of all modalities is the same word.',
    mosei_unaligned='CMU-MOSEI; voice and face at their own rates.',
    mosi='CMU-MOSI; step i of all modalities is the same word.',
    mosi_unaligned='CMU-MOSI; voice and face at their own rates.',
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Get the pickles of MulT, MultiBench or MMSA. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      feature_sequences.features(score=tfds.features.Scalar(dtype=np.float32)),
      homepage='http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Reads the pickle; see `builder.FolderBuilder`."""
    source = tree.SOURCES[self.builder_config.name]
    path = manual.file(root, source.files, tree.TREE)
    return feature_sequences.parts(
      path, source.aligned, 'score', tree.score, source.expected
    )
