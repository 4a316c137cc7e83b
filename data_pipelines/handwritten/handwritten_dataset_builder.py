"""TFDS builder of the UCI Multiple Features data set."""

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.handwritten import archive
from data_pipelines.handwritten import partition

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it without saying so, and fails only when it first does.
  importlib.import_module('importlib_resources')


@dataclasses.dataclass(eq=False)
class HandwrittenConfig(tfds.core.BuilderConfig):
  """Which modalities to store.

  Attributes:
    modalities: Their names, keys of `archive.MODALITIES`.
  """

  modalities: tuple[str, ...] = ()


class Builder(tfds.core.GeneratorBasedBuilder):
  """Handwritten digits in two, three or six modalities.

  Every element is a dictionary: each modality `[features]` in its original
  type, `label` int64 and `row` int32, the row number in the published file.
  Every config has the same rows in the same order.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   builder = Builder(data_dir=folder, config='two')
    >>> builder.info.features
    FeaturesDict({
        'fou': Tensor(shape=(76,), dtype=float32),
        'label': ClassLabel(shape=(), dtype=int64, num_classes=10),
        'pix': Tensor(shape=(240,), dtype=uint8),
        'row': Scalar(shape=(), dtype=int32),
    })
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS: ClassVar[list[HandwrittenConfig]] = [
    # The first one is the default.
    HandwrittenConfig(
      name='six',
      description='All six modalities.',
      modalities=tuple(archive.MODALITIES),
    ),
    HandwrittenConfig(
      name='three',
      description='Fourier coefficients, morphological features and pixels.',
      modalities=('fou', 'mor', 'pix'),
    ),
    HandwrittenConfig(
      name='two',
      description='Fourier coefficients and pixels.',
      modalities=('fou', 'pix'),
    ),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    features: dict[str, Any] = {}
    for name in self.builder_config.modalities:
      size, dtype = archive.MODALITIES[name]
      features[name] = tfds.features.Tensor(
        shape=(size,), dtype=np.dtype(dtype)
      )
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          **features,
          'label': tfds.features.ClassLabel(num_classes=archive.NUM_CLASSES),
          'row': tfds.features.Scalar(dtype=np.int32),
        }
      ),
      homepage='https://archive.ics.uci.edu/dataset/72/multiple+features',
      license='CC BY 4.0',
      # The order is that of `partition`, which mixes the classes.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # The archive comes with this package.
    arrays = archive.read_archive(archive.PATH)
    return {
      split: self._generate_examples(arrays, rows)
      for split, rows in partition.partition(arrays['label']).items()
    }

  def _generate_examples(
    self,
    arrays: dict[str, npt.NDArray[Any]],
    rows: npt.NDArray[np.int32],
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, row in enumerate(rows):
      yield (
        position,
        {
          **{m: arrays[m][row] for m in self.builder_config.modalities},
          'label': int(arrays['label'][row]),
          'row': row,
        },
      )
