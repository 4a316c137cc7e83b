"""TFDS builder of CREMA-D."""

import functools
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.crema_d import tree
from data_pipelines.reading import audio_visual
from data_pipelines.reading import builder
from data_pipelines.reading import media
from data_pipelines.reading import sounds


class Builder(builder.FolderBuilder):
  """Acted emotions: the sound of a clip, one frame a second, six classes.

  Every element has `audio` [n] int16 at 16 kHz, `frames` [t] JPEG bytes,
  `label` int64, and the texts `clip_id`, `actor`, `sentence`, `emotion` and
  `level`.
  """

  BUILDER_CONFIGS = builder.configs(
    field="The field's lists, in which every actor is in training and test;"
    ' without them, splits by actor.',
    actor_disjoint='No actor is in two splits: 71, 9 and 11 of the actors.',
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Clone CREMA-D with Git LFS. Expected:\n' + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      audio_visual.features(
        tree.EMOTIONS,
        texts=('clip_id', 'actor', 'sentence', 'emotion', 'level'),
      ),
      homepage='https://github.com/CheyneyComputerScience/CREMA-D',
      license='Open Database License 1.0',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the clips of each split; see `builder.FolderBuilder`."""
    by_actor = self.builder_config.name == 'actor_disjoint'
    names, expected = tree.splits(root, by_actor)
    read = functools.partial(_example, root)
    return {
      split: builder.Part(
        {name: tree.clip(name) for name in listed}, read, expected[split]
      )
      for split, listed in names.items()
    }


def _example(root: pathlib.Path, name: str, clip: tree.Clip) -> dict[str, Any]:
  sound, video, folder = (
    audio_visual.first_that_is(
      *(root / folder / f'{name}{suffix}' for folder in folders),
      # One clip was renamed; old copies have its files under the old name.
      *(root / folder / f'{name[:-1]}{suffix}' for folder in folders),
    )
    for folders, suffix in (
      (('AudioWAV', 'Audio'), '.wav'),
      (('VideoFlash',), '.flv'),
      (('Image-01-FPS',), ''),
    )
  )
  return {
    'audio': sounds.read(sound),
    'frames': audio_visual.read_frames(video, folder, media.one_each_second),
    'label': clip.label,
    'clip_id': name,
    **clip._asdict(),
  }
