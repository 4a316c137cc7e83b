"""Base classes of the TFDS builders of data sets."""

import abc
import importlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import audit
from data_pipelines.reading import manual

with _extra.data_extra():
  import tensorflow_datasets as tfds

  # TFDS needs it but does not declare it, and would fail only on first use.
  importlib.import_module('importlib_resources')


Part = audit.Part


def configs(**descriptions: str) -> list[tfds.core.BuilderConfig]:
  """Makes configurations from names and descriptions; the first is default."""
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
    """Describes the data set (features, homepage, license), for `_info`.

    Items stay in the order in which they are made, since the loader shuffles.
    """
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
      **others,
    )


class ArrayBuilder(_Builder):
  """Prepares a data set that is generated, or comes with this package.

  A subclass defines `BUILDER_CONFIGS`, `_info` with the features, and `arrays`.
  """

  @abc.abstractmethod
  def arrays(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Makes the rows: split -> name of an entry -> values, [rows, ...]."""

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

  A subclass defines `BUILDER_CONFIGS`, `_info` with the features, `parts`, and
  `MANUAL_DOWNLOAD_INSTRUCTIONS` with the tree of files, which errors show.
  """

  @abc.abstractmethod
  def parts(self, root: pathlib.Path) -> dict[str, Part]:
    """Lists the items to read: split -> how to read it.

    Args:
      root: The user's folder; it exists and is not empty.

    Raises:
      FileNotFoundError: if a file without which nothing can be read is missing.
      ValueError: if such a file is damaged.
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
    return audit.examples(part, self.name, split, self.data_path)
