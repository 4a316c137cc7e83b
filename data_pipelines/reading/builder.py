"""What the builders of data sets share."""

import abc
import importlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import audit
from data_pipelines.reading import manual

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it without saying so, and fails only when it first does.
  importlib.import_module('importlib_resources')


class Part(NamedTuple):
  """How a split is read.

  Attributes:
    items: Key to what `read` needs to know of an item, or the `audit.SkipError`
      of one that is to be left out.
    read: (key, item) to an example; raises `audit.SkipError` for an item that
      is to be left out.
    expected: How many items the published split has; None if nobody says.
  """

  items: Mapping[str, Any]
  read: Callable[[str, Any], dict[str, Any]]
  expected: int | None = None


def configs(**descriptions: str) -> list[tfds.core.BuilderConfig]:
  """Configurations by name, described; the first is the default."""
  return [
    tfds.core.BuilderConfig(name=name, description=text)
    for name, text in descriptions.items()
  ]


class _Builder(tfds.core.GeneratorBasedBuilder):
  """What every builder has."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}

  def described(
    self, features: Mapping[str, Any], **others: Any
  ) -> tfds.core.DatasetInfo:
    """Describes the data set by features, homepage, license, as `_info` is to.

    Items stay in the order in which they are made: it is the loader that
    shuffles.
    """
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
      **others,
    )


class ArrayBuilder(_Builder):
  """Prepares a data set that is drawn, or comes with this package.

  A subclass has `BUILDER_CONFIGS`, the features in `_info`, and `arrays`.
  """

  @abc.abstractmethod
  def arrays(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Makes the rows: split -> name -> the entry of each, [rows, ...]."""

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    return {
      split: self._generate_examples(arrays)
      for split, arrays in self.arrays().items()
    }

  def _generate_examples(
    self, arrays: dict[str, npt.NDArray[Any]]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in range(len(arrays['label'])):
      yield row, {name: values[row] for name, values in arrays.items()}


class FolderBuilder(_Builder):
  """Prepares a data set from files in a folder that the user names.

  A subclass has `BUILDER_CONFIGS`, the features in `_info`, the tree of files
  in `MANUAL_DOWNLOAD_INSTRUCTIONS`, which errors show, and `parts`.
  """

  @abc.abstractmethod
  def parts(self, root: pathlib.Path) -> dict[str, Part]:
    """Finds out what there is to read.

    Args:
      root: The user's folder; it is there and not empty.

    Returns:
      Split to how it is read.

    Raises:
      FileNotFoundError: if a file that all depends on is missing.
      ValueError: if one is damaged.
    """

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    root = manual.folder(self, dl_manager)
    return {
      split: self._generate_examples(split, part)
      for split, part in self.parts(root).items()
    }

  def _generate_examples(
    self, split: str, part: Part
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    told = audit.Audit(self.name, split, self.data_path, part.expected)
    return audit.examples(told, part.items, part.read)
