"""TFDS builder of the icons."""

import importlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.icons import archive
from data_pipelines.icons import grouping
from data_pipelines.icons import words
from data_pipelines.reading import stratified

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it without saying so, and fails only when it first does.
  importlib.import_module('importlib_resources')


class Builder(tfds.core.GeneratorBasedBuilder):
  """Icons as a picture and as the words of its tags; the category is the label.

  Every element is a dictionary: `picture` [24, 24, 1] uint8, ink is bright;
  `tags` [1024] uint8, the hashed bag of words; `label` int64; `group` int32,
  which is the same for near-copies, no two of which are in different splits;
  `row` int32 and the text `name`.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   builder = Builder(data_dir=folder)
    >>> builder.info.features
    FeaturesDict({
        'group': Scalar(shape=(), dtype=int32),
        'label': ClassLabel(shape=(), dtype=int64, num_classes=24),
        'name': Text(shape=(), dtype=string),
        'picture': Tensor(shape=(24, 24, 1), dtype=uint8),
        'row': Scalar(shape=(), dtype=int32),
        'tags': Tensor(shape=(1024,), dtype=uint8),
    })
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(
      name='outline', description='The outline icons of Tabler 3.52.0.'
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'picture': tfds.features.Tensor(shape=(24, 24, 1), dtype=np.uint8),
          'tags': tfds.features.Tensor(
            shape=(words.NUM_FEATURES,), dtype=np.uint8
          ),
          'label': tfds.features.ClassLabel(names=archive.CATEGORIES),
          'group': tfds.features.Scalar(dtype=np.int32),
          'row': tfds.features.Scalar(dtype=np.int32),
          'name': tfds.features.Text(),
        }
      ),
      homepage='https://github.com/tabler/tabler-icons',
      license='MIT',
      # The order is that of the division, which mixes the classes.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # The archive comes with this package.
    arrays = archive.read_archive(archive.PATH)
    label = np.searchsorted(archive.CATEGORIES, arrays['category'])
    group = grouping.groups(arrays['name'].tolist(), arrays['picture'])
    return {
      split: self._generate_examples(arrays, label, group, rows)
      for split, rows in stratified.split(label, group).items()
    }

  def _generate_examples(
    self,
    arrays: dict[str, npt.NDArray[Any]],
    label: npt.NDArray[np.int64],
    group: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, row in enumerate(rows):
      yield (
        position,
        {
          'picture': arrays['picture'][row][..., None],
          'tags': words.bag(words.words(str(arrays['tags'][row]))),
          'label': int(label[row]),
          'group': group[row],
          'row': np.int32(row),
          'name': str(arrays['name'][row]),
        },
      )
