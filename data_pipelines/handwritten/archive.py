"""The data set's original values, verified by checksum, and their splits."""

import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.reading import packaged

MODALITIES = {
  'fac': (216, 'int16'),  # profile correlations
  'fou': (76, 'float32'),  # Fourier coefficients of the shape
  'kar': (64, 'float32'),  # Karhunen-Loève coefficients
  'mor': (6, 'float32'),  # morphological features
  'pix': (240, 'uint8'),  # pixel averages in 2 x 3 windows
  'zer': (47, 'float32'),  # Zernike moments
}
"""Number of features and stored type of each modality."""

NUM_CLASSES = 10
ROWS_PER_CLASS = {'train': 100, 'validation': 20, 'test': 80}

_SEED = 1998  # the year in which the data set was published

PATH = pathlib.Path(__file__).with_name('handwritten.npz')
SHA256 = '85117cb871ddea8dae436a24d9776f9be2d7c4862f60f2a658c427127b9c56f2'


def read_archive() -> dict[str, npt.NDArray[Any]]:
  """Reads every array of the data set, after verifying the file.

  Returns:
    The modalities, each `[2000, features]` in its original type, and `label`,
    `[2000]` uint8. Rows are sorted by class, 200 of each.

  Raises:
    FileNotFoundError, ValueError: as `packaged.read`.

  Examples:
    >>> arrays = read_archive()
    >>> arrays['pix'].shape, arrays['pix'].dtype, arrays['pix'].max()
    ((2000, 240), dtype('uint8'), np.uint8(6))
  """
  return packaged.read(PATH, SHA256)


def partition(
  label: npt.NDArray[np.integer],
) -> dict[str, npt.NDArray[np.int32]]:
  """Divides the rows into training, validation and test rows.

  The rows of each class are shuffled and cut into 100, 20 and 80. Then the rows
  of each split are shuffled, so that classes are mixed. The seed is fixed, so
  the same labels always give the same rows in the same order.

  Args:
    label: Class of each row, `[2000]`, 200 rows of each class, in any order.

  Returns:
    The row numbers of `train` `[1000]`, `validation` `[200]` and `test`
    `[800]`. They are disjoint and cover all rows.

  Examples:
    >>> import numpy as np
    >>> rows = partition(np.repeat(np.arange(10), 200))
    >>> {name: len(numbers) for name, numbers in rows.items()}
    {'train': 1000, 'validation': 200, 'test': 800}
  """
  # NumPy promises never to change what RandomState draws. What a Generator
  # draws, and so the splits, may change between versions.
  random = np.random.RandomState(_SEED)
  # [classes, 200], shuffled row numbers of each class.
  shuffled = np.stack(
    [random.permutation(np.flatnonzero(label == c)) for c in np.unique(label)]
  )
  bounds = np.cumsum(list(ROWS_PER_CLASS.values()))[:-1]
  return {
    name: random.permutation(part.ravel()).astype(np.int32)
    for name, part in zip(
      ROWS_PER_CLASS, np.split(shuffled, bounds, axis=1), strict=True
    )
  }
