"""TFDS builder of AVE."""

import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from data_pipelines import _extra
from data_pipelines.ave import tree
from data_pipelines.reading import _audio_visual
from data_pipelines.reading import _audit
from data_pipelines.reading import _manual
from data_pipelines.reading import _media

with _extra.data_extra():
  import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Audio-visual events: sound, ten frames, 28 classes, a label a second.

  Every element is a dictionary: `audio` [n] int16 at 16 kHz, `frames` [10] JPEG
  bytes, `label` int64, the event's; `segment_labels` [10] int64, 28 where there
  is no event; `start` and `end` int64, its seconds; and the text `clip_id`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(
      name='official',
      description='The official lists, every video in one of them only.',
    )
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Unpack AVE_Dataset.zip. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=_audio_visual.features(
        tree.CLASSES,
        texts=('clip_id',),
        segment_labels=tfds.features.Tensor(
          shape=(tree.SECONDS,), dtype=np.int64
        ),
        start=tfds.features.Scalar(dtype=np.int64),
        end=tfds.features.Scalar(dtype=np.int64),
      ),
      homepage='https://github.com/YapengTian/AVE-ECCV18',
      # The loader shuffles; here videos stay in the order of the lists.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = tree.folder(_manual.folder(self, dl_manager, tree.TREE))
    return {
      split: self._generate_examples(root, split, items)
      for split, items in tree.splits(root).items()
    }

  def _generate_examples(
    self, root: pathlib.Path, split: str, items: tree.Items
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    def read(video: str, event: Any) -> dict[str, Any]:
      if isinstance(event, _audit.SkipError):
        raise event
      path = root / 'AVE' / f'{video}.mp4'
      return {
        'audio': _media.read_sound(path),
        'frames': _media.read_frames(path, _media.ten_half_seconds),
        'clip_id': video,
        'segment_labels': event.segment_labels,
        **event._asdict(),
      }

    audit = _audit.Audit(self.name, split, self.data_path, tree.EXPECTED[split])
    return _audit.examples(audit, items, read)
