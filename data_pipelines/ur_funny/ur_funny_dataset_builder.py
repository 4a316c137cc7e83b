"""TFDS builder of UR-FUNNY."""

import functools
import pathlib

import tensorflow_datasets as tfds

from data_pipelines.reading import builder
from data_pipelines.reading import feature_sequences
from data_pipelines.reading import manual
from data_pipelines.ur_funny import tree


class Builder(builder.FolderBuilder):
  """Punchlines of talks, as features of words, voice and face; funny or not.

  Every element has `vision`, `audio` and `text`, [t, d] float32, where step i
  is the same word in all; `label` int64; and the text `clip_id`.
  """

  BUILDER_CONFIGS = builder.configs(
    sdk="The authors' features, a step a word.",
    multibench="MultiBench's humor.pkl, padded with zeros on the left.",
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Get the authors' features or MultiBench's humor.pkl. Expected:\n"
    + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      feature_sequences.features(
        label=tfds.features.ClassLabel(names=list(tree.CLASSES))
      ),
      homepage='https://github.com/ROC-HCI/UR-FUNNY',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Reads the pickles; see `builder.FolderBuilder`."""
    if self.builder_config.name == 'multibench':
      path = manual.file(root, (tree.PACKED,), tree.TREE)
      return feature_sequences.parts(path, True, 'label', tree.label)
    keys = tree.splits(root)
    sdk = tree.read_sdk(root)
    tree.warn_of_unlisted(root, sdk, keys)
    read = functools.partial(tree.item, sdk)
    return {
      split: builder.Part(listed, read, len(listed))
      for split, listed in keys.items()
    }
