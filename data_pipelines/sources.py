"""Random-access sources: prepared splits, data in memory, subsets of them.

A source has a length and returns its elements by index. The loader needs
nothing else, so a list of dictionaries is a source, too.
"""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import arrays
from data_pipelines import folders

Element: TypeAlias = dict[str, npt.NDArray[Any]]


class Source(Protocol):
  """What the loader reads from: elements by index, in any order."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Element: ...


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
  """A source whose elements lie stacked in memory.

  Attributes:
    arrays: Name -> [length, ...], read-only; row i of each is element i.
  """

  arrays: Mapping[str, npt.NDArray[Any]]

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def __getitem__(self, index: int, /) -> Element:
    # The ellipsis keeps scalars arrays (of rank 0).
    return {name: array[index, ...] for name, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Subset:
  """The elements of a source whose indices are in `rows`."""

  source: Source
  rows: npt.NDArray[np.integer]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int, /) -> Element:
    return self.source[int(self.rows[index])]


def entry(element: Element, name: str) -> npt.NDArray[Any]:
  """Returns one entry of an element; ValueError if it is missing.

  Examples:
    >>> entry({'audio': [1, 2]}, 'text')
    Traceback (most recent call last):
    ValueError: The element has no 'text'. It has: audio.
  """
  if name not in element:
    raise ValueError(
      f'The element has no {name!r}. It has: {", ".join(sorted(element))}.'
    )
  return element[name]


def data_sets() -> list[str]:
  """Lists the names that `open_source` knows, sorted: folders with a builder.

  Examples:
    >>> data_sets()  # doctest: +ELLIPSIS
    ['av_mnist', 'ave', 'cmu_mosei', 'crema_d', 'handwritten', ...]
  """
  package = importlib.import_module(__package__)
  return sorted(
    path.parent.name
    for folder in package.__path__
    for path in pathlib.Path(folder).glob('*/*_dataset_builder.py')
    if path.stem == f'{path.parent.name}_dataset_builder'
  )


def open_source(
  name: str,
  *,
  config: str | None,
  split: str,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Source:
  """Opens one split of a data set, and prepares the data set on first use.

  Preparation writes ArrayRecord files, once per config. They get their final
  name only when they are complete: after an interruption, preparation starts
  again; if several processes prepare at the same time, one wins and all read
  its files. TFDS's progress bars are switched off, for the whole process.

  Args:
    name: A name that `data_sets` lists; or 'arrays' or 'folder' for a user's
      own data.
    config: One of the data set's configs; None is its default one. For 'arrays'
      and 'folder' it is the path; see `arrays.read` and `folders.read`.
    split: One of the data set's splits.
    data_dir: Where prepared data sets are. The default is the environment
      variable TFDS_DATA_DIR or else `~/tensorflow_datasets`.
    manual_dir: The folder with the files that the user has downloaded, for data
      sets that do not come with the package. It is read only while the data set
      is prepared. The default is `downloads/manual` in data_dir.

  Returns:
    A source that decodes an element each time it is read; `in_memory` decodes
    all of them once.

  Raises:
    FileNotFoundError: if a file of the user is missing.
    ModuleNotFoundError: if a package of the extra `data` is not installed.
    ValueError: if there is no such data set, config or split, or a file of the
      user is damaged.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   source = open_source(
    ...     'handwritten', config='two', split='test', data_dir=folder
    ...   )
    ...   {key: value.shape for key, value in source[0].items()}
    {'fou': (76,), 'pix': (240,), 'label': (), 'row': ()}
  """
  if name == arrays.NAME:
    return InMemory(arrays.arrays_of(str(config), split))
  # Imported here, because only this function needs TFDS.
  from data_pipelines.reading import prepared

  builder: Any
  if name == folders.NAME:
    from data_pipelines.reading import folder_builder

    own = folder_builder.folder(str(config))
    root = own.table.path.parent if own.table else None
    builder = prepared.prepare(folder_builder.Builder, own, data_dir, root)
  else:
    builder = prepared.prepare(
      builder_of(name, config), config, data_dir, manual_dir
    )
  if split not in builder.info.splits:
    raise ValueError(
      f'{name} has no split {split!r}. Available: '
      f'{", ".join(builder.info.splits)}. For a part of a split, use `subset`.'
    )
  return prepared.Records(builder, split)


def builder_of(name: str, config: str | None) -> Any:
  """Returns a builder class; ValueError if it or the config is unknown."""
  if name not in data_sets():
    raise ValueError(
      f'Unknown data set {name!r}. Known: {", ".join(data_sets())}. A new one '
      'is a folder of data_pipelines, laid out as `tfds new` does.'
    )
  importlib.import_module(f'{__package__}.reading.builder')  # names the extra
  module = importlib.import_module(
    f'{__package__}.{name}.{name}_dataset_builder'
  )
  configs = list(module.Builder.builder_configs)
  if config is not None and config not in configs:
    raise ValueError(
      f'{name} has no config {config!r}. Available: {", ".join(configs)}.'
    )
  return module.Builder


def transformed(element: Element, transforms: Sequence[Any]) -> Element:
  """Applies deterministic transforms (`grain.transforms.Map`) in order.

  A `grain.MapDataset` would take longer than most transforms of small rows.
  """
  for transform in transforms:
    element = transform.map(element)
  return element


def in_memory(source: Source, transforms: Sequence[Any] = ()) -> InMemory:
  """Decodes and transforms every element once and holds them in memory.

  Args:
    source: A source that is not empty, whose elements have equal shapes.
    transforms: Deterministic transforms (`grain.transforms.Map`) to apply, in
      order. They cost nothing in training. Random ones belong in the loader,
      which draws anew in each epoch.

  Raises:
    ValueError: if the source is empty, a transform is not a `Map`, or the
      elements cannot be stacked because their names or shapes differ.

  Examples:
    >>> import numpy as np
    >>> source = in_memory([{'x': np.ones(3)}, {'x': np.zeros(3)}])
    >>> len(source), source.arrays['x'].shape
    (2, (2, 3))
  """
  # Imported here, because only this function needs Grain.
  with _extra.data_extra():
    import grain

  for transform in transforms:
    if not isinstance(transform, grain.transforms.Map):
      raise ValueError(
        f'in_memory applies deterministic transforms, got {transform!r}, '
        'which is not a grain.transforms.Map. Give a random transform to the '
        'loader.'
      )
  if len(source) == 0:
    raise ValueError('Expected a source with elements, got an empty one.')
  elements = [transformed(source[i], transforms) for i in range(len(source))]
  expected = {name: np.shape(value) for name, value in elements[0].items()}
  for index, element in enumerate(elements):
    form = {name: np.shape(value) for name, value in element.items()}
    if form != expected:
      raise ValueError(
        f'Expected elements of one form, got {form} in element {index} after'
        f' {expected}. Cut, pad or drop entries with a transform, or a view.'
      )
  arrays = {
    name: np.stack([element[name] for element in elements]) for name in expected
  }
  # Elements are views of these arrays. A transform that writes in place must
  # fail, rather than change what later epochs see.
  for stacked in arrays.values():
    stacked.flags.writeable = False
  return InMemory(arrays)


def subset(source: Source, fraction: float, seed: int) -> Source:
  """Draws `round(fraction * len(source))` elements, kept in their old order.

  With one seed, a larger fraction draws all elements that a smaller one draws,
  so curves over the fraction compare nested sets. Classes are not balanced.

  Args:
    source: Any source.
    fraction: Share of the elements to draw, above 0 and up to 1; 1 gives the
      source itself.
    seed: Which elements, from 0 to 2**32 - 1.

  Raises:
    ValueError: if `fraction` is outside its range or draws no element.

  Examples:
    >>> tenth = subset([{'x': x} for x in range(50)], 0.1, seed=0)
    >>> [element['x'] for element in tenth]
    [2, 10, 11, 28, 41]
  """
  if not 0 < fraction <= 1:
    raise ValueError(f'Expected 0 < fraction <= 1, got {fraction}.')
  if fraction == 1:
    return source
  size = round(fraction * len(source))
  if size == 0:
    raise ValueError(
      f'A fraction of {fraction} of {len(source)} elements rounds to none. '
      'Choose a larger fraction.'
    )
  # NumPy promises never to change what RandomState draws. Prefixes of one
  # permutation make the subsets nested; sorted rows are read in file order.
  rows = np.random.RandomState(seed).permutation(len(source))[:size]
  return _Subset(source, np.sort(rows))
