"""The icons as they come with this package, verified by checksum."""

import pathlib
from typing import Any

import numpy.typing as npt

from data_pipelines.reading import packaged

CATEGORIES = (
  *('Arrows', 'Brand', 'Buildings', 'Communication', 'Currencies', 'Database'),
  *('Design', 'Development', 'Devices', 'Document', 'E-commerce', 'Food'),
  *('Health', 'Letters', 'Map', 'Math', 'Media', 'Numbers', 'Shapes', 'Sport'),
  *('System', 'Text', 'Vehicles', 'Weather'),
)

PATH = pathlib.Path(__file__).with_name('icons.npz')
SHA256 = '2f3c5c46ab553f10d7a4ad11d59f9704327dbc3c950bfd840aec85e9501aeb5d'


def read_archive() -> dict[str, npt.NDArray[Any]]:
  """Reads every array of the data set, after verifying the file.

  Returns:
    `picture` [4981, 24, 24] uint8, where ink is bright; and the texts [4981]
    `name`, `category` and `tags`, which are separated by commas.

  Raises:
    FileNotFoundError, ValueError: as `packaged.read`.

  Examples:
    >>> arrays = read_archive()
    >>> arrays['picture'].shape, str(arrays['name'][3])
    ((4981, 24, 24), 'abacus')
    >>> str(arrays['category'][3]), str(arrays['tags'][3])  # doctest: +ELLIPSIS
    ('Math', '...')
  """
  return packaged.read(PATH, SHA256)
