"""TFDS builder of AV-MNIST."""

import functools
import pathlib
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from data_pipelines.av_mnist import digits
from data_pipelines.av_mnist import rebuild
from data_pipelines.av_mnist import tree
from data_pipelines.reading import audit
from data_pipelines.reading import builder
from data_pipelines.reading import sounds

_Arrays = TypeVar('_Arrays', tree.Arrays, digits.Digits)


class Builder(builder.FolderBuilder):
  """Digits as a picture and as a spoken word.

  Every element has `image` [28, 28, 1] and `audio` [112, 112, 1] float32, from
  0 to 255; `label` int64; `row` int32, the row in the published part; and the
  text `recording` if the data set is rebuilt. Splits of the pictures are
  MultiBench's: 55,000 rows for training, the last 5,000 of the training part
  for validation, 10,000 for test.
  """

  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    '1.1.0': 'Arrays are stored as bytes, which takes a third of the time.'
  }
  BUILDER_CONFIGS = builder.configs(
    multibench='The arrays that MultiBench publishes.',
    rebuilt='Made from MNIST and the Free Spoken Digit Dataset: a quarter of'
    " the pictures' energy, spectrograms with noise.",
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "For multibench, unpack MultiBench's avmnist.tar.gz. Expected:\n"
    f'{tree.TREE}\nFor rebuilt, fetch MNIST and clone the Free Spoken Digit'
    f' Dataset. Expected:\n{digits.TREE}'
  )

  def _info(self) -> tfds.core.DatasetInfo:
    is_rebuilt = self.builder_config.name == 'rebuilt'
    shapes = {'image': tree.IMAGE_SHAPE, 'audio': tree.AUDIO_SHAPE}
    return self.described(
      {
        **{
          name: tfds.features.Tensor(
            shape=shape, dtype=np.float32, encoding='bytes'
          )
          for name, shape in shapes.items()
        },
        'label': tfds.features.ClassLabel(num_classes=tree.NUM_CLASSES),
        'row': tfds.features.Scalar(dtype=np.int32),
        **({'recording': tfds.features.Text()} if is_rebuilt else {}),
      },
      homepage='https://github.com/pliang279/MultiBench',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the rows of each split; see `builder.FolderBuilder`."""
    if self.builder_config.name == 'rebuilt':
      return _rebuilt(root)
    rows = _rows(tree.read(root, 'train'), tree.read(root, 'test'))
    return {
      split: builder.Part(
        {f'row {row}': row for row in numbers},
        functools.partial(_published, arrays),
        tree.EXPECTED[split],
      )
      for split, (arrays, numbers) in rows.items()
    }


def _rows(
  train: _Arrays, test: _Arrays
) -> dict[str, tuple[_Arrays, npt.NDArray[np.int64]]]:
  """Returns, for each split, arrays and which of their rows are in it.

  As in MultiBench, the last twelfth of the training part is for validation.
  """
  numbers = np.arange(len(train.label))
  first = len(numbers) - len(numbers) // 12
  return {
    'train': (train, numbers[:first]),
    'validation': (train, numbers[first:]),
    'test': (test, np.arange(len(test.label))),
  }


def _published(arrays: tree.Arrays, key: str, row: int) -> dict[str, Any]:
  del key
  return _element(arrays.image[row], arrays.audio[row], arrays.label[row], row)


def _rebuilt(root: pathlib.Path) -> dict[str, builder.Part]:
  rows = _rows(digits.read(root, 'train'), digits.read(root, 'test'))
  train, numbers = rows['train']
  projection = rebuild.fit(train.image[numbers])
  recordings = digits.recordings(root)
  parts = {}
  for seed, (split, (arrays, numbers)) in enumerate(rows.items()):
    paired = rebuild.pair(list(arrays.label[numbers]), recordings[split], seed)
    parts[split] = builder.Part(
      {f'row {r}': (r, p) for r, p in zip(numbers, paired, strict=True)},
      functools.partial(_made, arrays, projection(arrays.image), seed),
      tree.EXPECTED[split],
    )
  return parts


def _made(
  arrays: digits.Digits,
  projected: npt.NDArray[np.float32],
  seed: int,
  key: str,
  item: tuple[int, pathlib.Path],
) -> dict[str, Any]:
  """Makes an element from a picture and a recording."""
  del key
  row, path = item
  values = sounds.read(path, rebuild.RATE) / 2**15
  if len(values) < rebuild.WINDOW:
    raise audit.SkipError(
      'too_short',
      f'{path} has {len(values)} samples; expected {rebuild.WINDOW}',
    )
  # A generator for each row, so that no row depends on those before it.
  random = np.random.RandomState([seed, row])
  audio = rebuild.spectrogram(rebuild.add_noise(values, random))
  return {
    **_element(projected[row], audio, arrays.label[row], row),
    'recording': path.stem,
  }


def _element(
  image: npt.NDArray[Any], audio: npt.NDArray[Any], label: int, row: int
) -> dict[str, Any]:
  return {
    'image': np.asarray(image, np.float32).reshape(tree.IMAGE_SHAPE),
    'audio': np.asarray(audio, np.float32).reshape(tree.AUDIO_SHAPE),
    'label': int(label),
    'row': np.int32(row),
  }
