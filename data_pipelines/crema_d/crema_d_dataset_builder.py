"""TFDS builder of CREMA-D."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

from data_pipelines import _extra
from data_pipelines.crema_d import tree
from data_pipelines.reading import _audio_visual
from data_pipelines.reading import _audit
from data_pipelines.reading import _manual
from data_pipelines.reading import _media

with _extra.data_extra():
  import tensorflow_datasets as tfds


@dataclasses.dataclass(eq=False)
class CremaDConfig(tfds.core.BuilderConfig):
  """Which splits to make.

  Attributes:
    by_actor: whether no actor is in two splits.
  """

  by_actor: bool = False


class Builder(tfds.core.GeneratorBasedBuilder):
  """Acted emotions: the sound of a clip, one frame a second, six classes.

  Every element is a dictionary: `audio` [n] int16 at 16 kHz, `frames` [t] JPEG
  bytes, `label` int64, and the texts `clip_id`, `actor`, `sentence`, `emotion`
  and `level`.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[CremaDConfig]] = [
    CremaDConfig(
      name='field',
      description=(
        "The field's lists, in which every actor is in training and test;"
        ' without them, splits by actor.'
      ),
    ),
    CremaDConfig(
      name='actor_disjoint',
      description='No actor is in two splits: 71, 9 and 11 of the actors.',
      by_actor=True,
    ),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Clone CREMA-D with Git LFS. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=_audio_visual.features(
        tree.EMOTIONS,
        texts=('clip_id', 'actor', 'sentence', 'emotion', 'level'),
      ),
      homepage='https://github.com/CheyneyComputerScience/CREMA-D',
      license='Open Database License 1.0',
      # The loader shuffles; here clips stay in the order of their names.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = _manual.folder(self, dl_manager, tree.TREE)
    names, expected = tree.splits(root, self.builder_config.by_actor)
    return {
      split: self._generate_examples(root, split, listed, expected[split])
      for split, listed in names.items()
    }

  def _generate_examples(
    self,
    root: pathlib.Path,
    split: str,
    names: list[str],
    expected: int | None,
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    def read(name: str, clip: tree.Clip) -> dict[str, Any]:
      sounds, videos, pictures = (
        _audio_visual.first_that_is(
          *(root / folder / f'{name}{suffix}' for folder in folders),
          # The one file that was renamed; old copies have its old name.
          *(root / folder / f'{name[:-1]}{suffix}' for folder in folders),
        )
        for folders, suffix in (
          (('AudioWAV', 'Audio'), '.wav'),
          (('VideoFlash',), '.flv'),
          (('Image-01-FPS',), ''),
        )
      )
      return {
        'audio': _media.read_wav(sounds),
        'frames': _audio_visual.read_frames(
          videos, pictures, _media.one_each_second
        ),
        'label': clip.label,
        'clip_id': name,
        **clip._asdict(),
      }

    audit = _audit.Audit(self.name, split, self.data_path, expected)
    clips = {name: tree.clip(name) for name in names}
    return _audit.examples(audit, clips, read)
