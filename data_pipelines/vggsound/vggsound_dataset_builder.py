"""TFDS builder of VGGSound."""

from collections.abc import Iterator
from typing import Any, ClassVar

from data_pipelines import _extra
from data_pipelines.reading import _audio_visual
from data_pipelines.reading import _audit
from data_pipelines.reading import _clips
from data_pipelines.reading import _manual
from data_pipelines.reading import _media
from data_pipelines.vggsound import labels
from data_pipelines.vggsound import tree

with _extra.data_extra():
  import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Sounds and their visible sources: one frame a second, 309 classes.

  Every element is a dictionary: `audio` [n] int16 at 16 kHz, `frames` [t] JPEG
  bytes, `label` int64, and the text `clip_id`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(
      name='official',
      description='The official split, validation carved from its train.',
    )
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put the official list and the clips in a folder. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=_audio_visual.features(labels.CLASSES, texts=('clip_id',)),
      homepage='https://www.robots.ox.ac.uk/~vgg/data/vggsound/',
      license='CC BY 4.0',
      # The loader shuffles; here clips stay in the order of the list.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = _manual.folder(self, dl_manager, tree.TREE)
    parts, expected = tree.splits(root)
    media = _clips.find(root)
    return {
      split: self._generate_examples(media, split, items, expected[split])
      for split, items in parts.items()
    }

  def _generate_examples(
    self,
    media: _clips.Media,
    split: str,
    items: _clips.Items,
    expected: int | None,
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    def read(key: str, item: Any) -> dict[str, Any]:
      del key  # The item has the name, in one spelling.
      return _clips.example(media, item, _media.one_each_second)

    audit = _audit.Audit(self.name, split, self.data_path, expected)
    return _audit.examples(audit, items, read)
