"""TFDS builder of CMU-MOSEI and CMU-MOSI."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from data_pipelines import _extra
from data_pipelines.cmu_mosei import tree
from data_pipelines.reading import _audit
from data_pipelines.reading import _feature_sequences
from data_pipelines.reading import _manual

with _extra.data_extra():
  import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Spoken opinions, as features of words, voice and face, and a sentiment.

  Every element is a dictionary: `vision`, `audio` and `text`, [t, d] float32,
  as published, padded on the left; `score` float32, from -3 (negative) to 3,
  and the text `clip_id`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name=name, description=description)
    for name, description in (
      ('mosei', 'CMU-MOSEI; step i of all modalities is the same word.'),
      ('mosei_unaligned', 'CMU-MOSEI; voice and face at their own rates.'),
      ('mosi', 'CMU-MOSI; step i of all modalities is the same word.'),
      ('mosi_unaligned', 'CMU-MOSI; voice and face at their own rates.'),
    )
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Get the pickles of MulT, MultiBench or MMSA. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=_feature_sequences.features(
        score=tfds.features.Scalar(dtype=np.float32)
      ),
      homepage='http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/',
      # The loader shuffles; here clips stay in the published order.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = _manual.folder(self, dl_manager, tree.TREE)
    source = tree.SOURCES[self.builder_config.name]
    path = _manual.file(root, source.files, tree.TREE)
    return {
      split: self._generate_examples(split, part, source)
      for split, part in _feature_sequences.read_packed(
        path, tree.LABELS
      ).items()
    }

  def _generate_examples(
    self,
    split: str,
    part: _feature_sequences.Packed,
    source: tree.Source,
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    def read(clip: str, row: int) -> dict[str, Any]:
      return {
        **_feature_sequences.packed_element(part, row, source.aligned, clip),
        'score': tree.score(part.labels[row], clip),
        'clip_id': clip,
      }

    audit = _audit.Audit(
      self.name, split, self.data_path, source.expected[split]
    )
    return _audit.examples(audit, part.clips, read)
