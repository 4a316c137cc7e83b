"""Writes a tiny data set in its official format, to try commands on.

  python -m data_pipelines.sample_tree crema_d DIRECTORY

The labels can be learned. Data sets that come with the package have no sample.
"""

import argparse
import importlib
import importlib.util
import pathlib
from collections.abc import Sequence

from data_pipelines import sources


def names() -> list[str]:
  """Lists the data sets that have a sample, sorted: those that users download.

  Examples:
    >>> names()  # doctest: +ELLIPSIS
    ['av_mnist', 'ave', 'cmu_mosei', 'crema_d', 'htad', ...]
  """
  return [
    name
    for name in sources.data_sets()
    if importlib.util.find_spec(f'{__package__}.{name}.tree')
  ]


def write(name: str, root: pathlib.Path) -> None:
  """Writes the sample of a data set, one of `names`, to an empty or new folder.

  Raises:
    FileExistsError: if the folder is not empty.
    ValueError: if there is no such sample.
  """
  if name not in names():
    raise ValueError(f'No sample {name!r}; there are: {", ".join(names())}.')
  root = root.expanduser()
  if root.exists() and any(root.iterdir()):
    raise FileExistsError(
      f'{root} is not empty. Name an empty folder, or a new one.'
    )
  module = importlib.import_module(f'{__package__}.{name}.tree')
  module.write_sample(root)


def main(arguments: Sequence[str] | None = None) -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m data_pipelines.sample_tree',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('name', choices=names(), help='the data set')
  parser.add_argument(
    'directory', type=pathlib.Path, help='a new folder, or an empty one'
  )
  chosen = parser.parse_args(arguments)
  write(chosen.name, chosen.directory)


if __name__ == '__main__':
  main()
