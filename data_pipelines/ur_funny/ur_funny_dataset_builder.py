"""TFDS builder of UR-FUNNY."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from data_pipelines import _extra
from data_pipelines.reading import _audit
from data_pipelines.reading import _feature_sequences
from data_pipelines.reading import _manual
from data_pipelines.ur_funny import tree

with _extra.data_extra():
  import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Punchlines of talks, as features of words, voice and face; funny or not.

  Every element is a dictionary: `vision`, `audio` and `text`, [t, d] float32,
  step i of all the same word; `label` int64, and the text `clip_id`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(
      name='sdk', description="The authors' features, a step a word."
    ),
    tfds.core.BuilderConfig(
      name='multibench',
      description="MultiBench's humor.pkl, padded with zeros on the left.",
    ),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Get the authors' features or MultiBench's humor.pkl. Expected:\n"
    + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=_feature_sequences.features(
        label=tfds.features.ClassLabel(names=list(tree.CLASSES))
      ),
      homepage='https://github.com/ROC-HCI/UR-FUNNY',
      # The loader shuffles; here clips stay in the published order.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = _manual.folder(self, dl_manager, tree.TREE)
    if self.builder_config.name == 'multibench':
      path = _manual.file(root, (tree.PACKED,), tree.TREE)
      return {
        split: self._generate_examples(
          split, part.clips, None, functools.partial(_packed_item, part)
        )
        for split, part in _feature_sequences.read_packed(path).items()
      }
    keys = tree.splits(root)
    sdk = tree.read_sdk(root)
    tree.warn_of_unlisted(root, sdk, keys)
    return {
      split: self._generate_examples(
        split, listed, len(listed), functools.partial(tree.item, sdk)
      )
      for split, listed in keys.items()
    }

  def _generate_examples(
    self,
    split: str,
    keys: Mapping[str, Any],
    expected: int | None,
    read: Callable[[str, Any], dict[str, Any]],
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    audit = _audit.Audit(self.name, split, self.data_path, expected)
    return _audit.examples(audit, keys, read)


def _packed_item(
  part: _feature_sequences.Packed, clip: str, row: int
) -> dict[str, Any]:
  return {
    **_feature_sequences.packed_element(part, row, aligned=True, where=clip),
    'label': tree.label(part.labels[row], clip),
    'clip_id': clip,
  }
