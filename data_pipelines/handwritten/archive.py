"""The data set's original values, verified by checksum."""

import pathlib
from typing import Any

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
