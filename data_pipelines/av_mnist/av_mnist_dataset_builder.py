"""TFDS builder of AV-MNIST."""

import importlib
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from data_pipelines import _extra
from data_pipelines import _manual
from data_pipelines.av_mnist import tree

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it without saying so, and fails only when it first does.
  importlib.import_module('importlib_resources')


class Builder(tfds.core.GeneratorBasedBuilder):
  """Digits as a picture and as a spoken word, from MultiBench's arrays.

  Every element is a dictionary: `image` [28, 28, 1] and `audio` [112, 112, 1]
  float32, as published, from 0 to 255; `label` int64, and `row` int32, the row
  in the published part. Splits are MultiBench's: 55,000 rows to train, the last
  5,000 of the training part for validation, 10,000 to test.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(
      name='multibench',
      description='The arrays that MultiBench publishes.',
    )
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Unpack MultiBench's avmnist.tar.gz. Expected:\n" + tree.TREE
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Tensor(
            shape=tree.IMAGE_SHAPE, dtype=np.float32
          ),
          'audio': tfds.features.Tensor(
            shape=tree.AUDIO_SHAPE, dtype=np.float32
          ),
          'label': tfds.features.ClassLabel(num_classes=tree.NUM_CLASSES),
          'row': tfds.features.Scalar(dtype=np.int32),
        }
      ),
      homepage='https://github.com/pliang279/MultiBench',
      # The loader shuffles; here rows stay where they can be found.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = _manual.folder(dl_manager, tree.TREE)
    train, test = (tree.read(root, part) for part in ('train', 'test'))
    rows = {
      name: (train, np.arange(len(train.label))[part])
      for name, part in tree.splits(len(train.label)).items()
    }
    rows['test'] = test, np.arange(len(test.label))
    counts = {name: len(numbers) for name, (_, numbers) in rows.items()}
    if counts != tree.EXPECTED:
      logging.getLogger(__name__).warning(
        'av_mnist in %s has %s rows; the published data set has %s.',
        root,
        counts,
        tree.EXPECTED,
      )
    return {
      name: self._generate_examples(arrays, numbers)
      for name, (arrays, numbers) in rows.items()
    }

  def _generate_examples(
    self, arrays: tree.Arrays, rows: np.ndarray[Any, Any]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in rows:
      yield (
        int(row),
        {
          'image': _values(arrays.image[row], tree.IMAGE_SHAPE),
          'audio': _values(arrays.audio[row], tree.AUDIO_SHAPE),
          'label': int(arrays.label[row]),
          'row': np.int32(row),
        },
      )


def _values(
  row: np.ndarray[Any, Any], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
  return np.asarray(row, np.float32).reshape(shape)
