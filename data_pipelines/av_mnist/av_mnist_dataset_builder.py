"""TFDS builder of AV-MNIST."""

import importlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.av_mnist import digits
from data_pipelines.av_mnist import rebuild
from data_pipelines.av_mnist import tree
from data_pipelines.reading import _audit
from data_pipelines.reading import _manual
from data_pipelines.reading import _media

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it without saying so, and fails only when it first does.
  importlib.import_module('importlib_resources')


# Part (MultiBench's arrays or MNIST's) and its rows, of each split.
_Rows: TypeAlias = dict[str, tuple[Any, npt.NDArray[np.int64]]]


class Builder(tfds.core.GeneratorBasedBuilder):
  """Digits as a picture and as a spoken word.

  Every element is a dictionary: `image` [28, 28, 1] and `audio` [112, 112, 1]
  float32, from 0 to 255; `label` int64, and `row` int32, the row in the
  published part; if rebuilt, also the text `recording`. Splits of the pictures
  are MultiBench's: 55,000 rows to train, the last 5,000 of the training part
  for validation, 10,000 to test.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(
      name='multibench',
      description='The arrays that MultiBench publishes.',
    ),
    tfds.core.BuilderConfig(
      name='rebuilt',
      description=(
        'Made from MNIST and the Free Spoken Digit Dataset: a quarter of the'
        " pictures' energy, spectrograms with noise."
      ),
    ),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "For multibench, unpack MultiBench's avmnist.tar.gz. Expected:\n"
    f'{tree.TREE}\nFor rebuilt, fetch MNIST and clone the Free Spoken Digit'
    f' Dataset. Expected:\n{digits.TREE}'
  )

  @property
  def _is_rebuilt(self) -> bool:
    return self.builder_config.name == 'rebuilt'

  def _info(self) -> tfds.core.DatasetInfo:
    others = {'recording': tfds.features.Text()} if self._is_rebuilt else {}
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
          **others,
        }
      ),
      homepage='https://github.com/pliang279/MultiBench',
      # The loader shuffles; here rows stay where they can be found.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    chosen = digits if self._is_rebuilt else tree
    root = _manual.folder(self, dl_manager, chosen.TREE)
    train, test = (chosen.read(root, part) for part in ('train', 'test'))
    rows: _Rows = {
      name: (train, np.arange(len(train.label))[part])
      for name, part in tree.splits(len(train.label)).items()
    }
    rows['test'] = test, np.arange(len(test.label))
    if self._is_rebuilt:
      return self._rebuilt(root, rows)
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
    self, arrays: tree.Arrays, rows: npt.NDArray[np.int64]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in rows:
      yield (
        int(row),
        _element(arrays.image[row], arrays.audio[row], arrays.label[row], row),
      )

  def _rebuilt(
    self, root: pathlib.Path, rows: _Rows
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    train, numbers = rows['train']
    projection = rebuild.fit(train.image[numbers])
    recordings = digits.recordings(root)
    return {
      split: self._generate_rebuilt(
        split,
        {
          f'row {row}': (row, part.label[row], recording)
          for row, recording in zip(
            numbers,
            rebuild.pair(part.label[numbers], recordings[split], seed),
            strict=True,
          )
        },
        part.image,
        projection,
        seed,
      )
      for seed, (split, (part, numbers)) in enumerate(rows.items())
    }

  def _generate_rebuilt(
    self,
    split: str,
    items: dict[str, tuple[int, int, pathlib.Path]],
    pictures: npt.NDArray[np.uint8],
    projection: rebuild.Projection,
    seed: int,
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    projected = projection(pictures)

    def read(_: str, item: tuple[int, int, pathlib.Path]) -> dict[str, Any]:
      row, label, path = item
      values = _media.read_wav(path, rebuild.RATE) / 2**15
      if len(values) < rebuild.WINDOW:
        raise _audit.SkipError(
          'too_short',
          f'{path} has {len(values)} samples; expected {rebuild.WINDOW}',
        )
      # Of its own, so that no row depends on those before it.
      random = np.random.RandomState([seed, row])
      audio = rebuild.spectrogram(rebuild.add_noise(values, random))
      return {
        **_element(projected[row], audio, label, row),
        'recording': path.stem,
      }

    audit = _audit.Audit(self.name, split, self.data_path, tree.EXPECTED[split])
    return _audit.examples(audit, items, read)


def _element(
  image: npt.NDArray[Any], audio: npt.NDArray[Any], label: int, row: int
) -> dict[str, Any]:
  return {
    'image': np.asarray(image, np.float32).reshape(tree.IMAGE_SHAPE),
    'audio': np.asarray(audio, np.float32).reshape(tree.AUDIO_SHAPE),
    'label': int(label),
    'row': np.int32(row),
  }
