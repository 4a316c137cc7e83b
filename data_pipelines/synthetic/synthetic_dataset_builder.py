"""TFDS builder of the synthetic testbed."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from data_pipelines.reading import builder
from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings


class Builder(builder.ArrayBuilder):
  """Modalities of known information, slowness and noise.

  Every element has each modality `[features]` float32, `label` int64, and `row`
  int32, counted over `train`, `validation` and `test`. The labels are the same
  in every config.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   testbed = Builder(data_dir=folder, config='nuisance_16')
    >>> testbed.info.features
    FeaturesDict({
        'clean': Tensor(shape=(16,), dtype=float32),
        'label': ClassLabel(shape=(), dtype=int64, num_classes=10),
        'noisy': Tensor(shape=(256,), dtype=float32),
        'row': Scalar(shape=(), dtype=int32),
    })
  """

  BUILDER_CONFIGS = builder.configs(
    **{
      name: ', '.join(f'{m}: {modalities[m]}' for m in modalities)
      for name, modalities in settings.CONFIGS.items()
    }
  )

  @classmethod
  def drawn(
    cls, config: str | None, split: str, seed: int
  ) -> dict[str, npt.NDArray[Any]]:
    """Draws the rows of a split: entry -> values, [rows, ...].

    Args:
      config: The name of one of the configs; None is the default one.
      split: The name of a split.
      seed: 0 draws the stored rows; every other seed draws independent ones.
    """
    splits = list(settings.SPLITS)
    modalities = settings.CONFIGS[config or next(iter(settings.CONFIGS))]
    place, size = splits.index(split), settings.SPLITS[split]
    rows = generation.draw(modalities, size, len(splits) * seed + place)
    first = sum(settings.SPLITS[name] for name in splits[:place])
    return {**rows, 'row': np.arange(first, first + size, dtype=np.int32)}

  def arrays(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Draws the rows of each split; see `builder.ArrayBuilder`."""
    config = self.builder_config.name
    return {split: self.drawn(config, split, 0) for split in settings.SPLITS}

  def _info(self) -> tfds.core.DatasetInfo:
    modalities = settings.CONFIGS[self.builder_config.name]
    return self.described(
      {
        **{
          name: tfds.features.Tensor(
            shape=(modality.features,), dtype=np.float32
          )
          for name, modality in modalities.items()
        },
        'label': tfds.features.ClassLabel(num_classes=settings.NUM_CLASSES),
        'row': tfds.features.Scalar(dtype=np.int32),
      }
    )
