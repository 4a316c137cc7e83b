"""TFDS builder of the UCI Multiple Features data set."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from data_pipelines.handwritten import archive
from data_pipelines.reading import builder

# Modalities of each configuration.
_MODALITIES = {
  'six': tuple(archive.MODALITIES),
  'three': ('fou', 'mor', 'pix'),
  'two': ('fou', 'pix'),
}


class Builder(builder.ArrayBuilder):
  """Handwritten digits in two, three or six modalities.

  Every element has each modality `[features]` in its original type, `label`
  int64, and `row` int32, the row in the published file. Every config has the
  same rows in the same order.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   digits = Builder(data_dir=folder, config='two')
    >>> digits.info.features
    FeaturesDict({
        'fou': Tensor(shape=(76,), dtype=float32),
        'label': ClassLabel(shape=(), dtype=int64, num_classes=10),
        'pix': Tensor(shape=(240,), dtype=uint8),
        'row': Scalar(shape=(), dtype=int32),
    })
  """

  BUILDER_CONFIGS = builder.configs(
    six='All six modalities.',
    three='Fourier coefficients, morphological features and pixels.',
    two='Fourier coefficients and pixels.',
  )

  def _info(self) -> tfds.core.DatasetInfo:
    features: dict[str, Any] = {}
    for name in _MODALITIES[self.builder_config.name]:
      size, dtype = archive.MODALITIES[name]
      features[name] = tfds.features.Tensor(
        shape=(size,), dtype=np.dtype(dtype)
      )
    return self.described(
      {
        **features,
        'label': tfds.features.ClassLabel(num_classes=archive.NUM_CLASSES),
        'row': tfds.features.Scalar(dtype=np.int32),
      },
      homepage='https://archive.ics.uci.edu/dataset/72/multiple+features',
      license='CC BY 4.0',
    )

  def arrays(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Reads the rows of each split; see `builder.ArrayBuilder`."""
    arrays = archive.read_archive()
    names = (*_MODALITIES[self.builder_config.name], 'label')
    return {
      split: {**{name: arrays[name][rows] for name in names}, 'row': rows}
      for split, rows in archive.partition(arrays['label']).items()
    }
