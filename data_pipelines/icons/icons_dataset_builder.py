"""TFDS builder of the icons."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from data_pipelines.icons import archive
from data_pipelines.icons import grouping
from data_pipelines.icons import words
from data_pipelines.reading import builder
from data_pipelines.reading import stratified


class Builder(builder.ArrayBuilder):
  """Icons as a picture and as the words of their tags; labels are categories.

  Every element has `picture` [24, 24, 1] uint8, where ink is bright; `tags`
  [1024] uint8, the hashed bag of words; `label` int64; `group` int32, the same
  for near-copies, which are always in one split; `row` int32; and the text
  `name`.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   icons = Builder(data_dir=folder)
    >>> icons.info.features
    FeaturesDict({
        'group': Scalar(shape=(), dtype=int32),
        'label': ClassLabel(shape=(), dtype=int64, num_classes=24),
        'name': Text(shape=(), dtype=string),
        'picture': Tensor(shape=(24, 24, 1), dtype=uint8),
        'row': Scalar(shape=(), dtype=int32),
        'tags': Tensor(shape=(1024,), dtype=uint8),
    })
  """

  BUILDER_CONFIGS = builder.configs(
    outline='The outline icons of Tabler 3.52.0.'
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      {
        'picture': tfds.features.Tensor(shape=(24, 24, 1), dtype=np.uint8),
        'tags': tfds.features.Tensor(
          shape=(words.NUM_FEATURES,), dtype=np.uint8
        ),
        'label': tfds.features.ClassLabel(names=archive.CATEGORIES),
        'group': tfds.features.Scalar(dtype=np.int32),
        'row': tfds.features.Scalar(dtype=np.int32),
        'name': tfds.features.Text(),
      },
      homepage='https://github.com/tabler/tabler-icons',
      license='MIT',
    )

  def arrays(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Reads the icons of each split; see `builder.ArrayBuilder`."""
    arrays = archive.read_archive()
    label = np.searchsorted(archive.CATEGORIES, arrays['category'])
    group = grouping.groups(arrays['name'].tolist(), arrays['picture'])
    entries = {
      'picture': arrays['picture'][..., None],
      'tags': np.stack([words.bag(text) for text in arrays['tags'].tolist()]),
      'label': label,
      'group': group,
      'row': np.arange(len(label), dtype=np.int32),
      'name': arrays['name'],
    }
    return {
      split: {name: values[rows] for name, values in entries.items()}
      for split, rows in stratified.split(label, group).items()
    }
