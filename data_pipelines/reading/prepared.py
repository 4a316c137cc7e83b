"""Prepares a data set with TFDS and reads its records."""

import contextlib
import errno
import io
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import manual

with _extra.data_extra():
  import tensorflow_datasets as tfds


class Records:
  """A split's records, decoded on demand, each value in its feature's type.

  TFDS decodes scalars to Python numbers, which forget their type.

  Args:
    builder: A builder whose data set is prepared, of features that hold one
      array each.
    split: The name of a split.
  """

  def __init__(
    self, builder: tfds.core.GeneratorBasedBuilder, split: str
  ) -> None:
    self._records = builder.as_data_source(split)
    self._dtypes = {
      name: np.dtype(feature.np_dtype)
      for name, feature in builder.info.features.items()
    }

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int, /) -> dict[str, npt.NDArray[Any]]:
    # ArrayRecord neither counts from the end nor raises IndexError.
    record = self._records[range(len(self))[index]]
    return {
      name: np.asarray(record[name], dtype)
      for name, dtype in self._dtypes.items()
    }


def prepare(
  builder_class: type[tfds.core.GeneratorBasedBuilder],
  config: str | tfds.core.BuilderConfig | None,
  data_dir: str | os.PathLike[str] | None,
  manual_dir: str | os.PathLike[str] | None = None,
) -> tfds.core.GeneratorBasedBuilder:
  """Returns a builder whose data set is prepared, preparing it if need be.

  Args:
    builder_class: The data set's builder.
    config: A config or the name of one; None is the default one.
    data_dir: Where prepared data sets lie; None is TFDS's choice.
    manual_dir: Where the user has put the files; None is TFDS's choice.

  Returns:
    A builder that has read the prepared data set's description.

  Raises:
    OSError: if the files cannot be written; what did not fit is one line.
    ValueError: if they were prepared from another folder of the user's.
  """
  # TFDS reads the variable when it is imported; this honours a later change.
  chosen = data_dir or os.environ.get('TFDS_DATA_DIR')
  folder = pathlib.Path(chosen).expanduser() if chosen else None
  if manual_dir is not None:
    manual_dir = pathlib.Path(manual_dir).expanduser()

  def build() -> tfds.core.GeneratorBasedBuilder:
    return builder_class(
      data_dir=folder, config=config, file_format='array_record'
    )

  builder = build()
  if _is_complete(builder):
    _check_origin(pathlib.Path(builder.data_path), manual_dir)
    return builder
  tfds.disable_progress_bar()
  # A folder under the final name that is not complete is a damaged copy: TFDS
  # would take it for prepared unless told to overwrite it.
  mode = (
    tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    if builder.data_path.exists()
    else tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
  )
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
          download_mode=mode, manual_dir=manual_dir
        )
      )
  except (OSError, RuntimeError) as error:
    if _is_full(error):
      raise OSError(
        errno.ENOSPC,
        f'no space is left for {builder.name}; {error}. Make room, or name'
        ' another place for prepared data in TFDS_DATA_DIR. Then the same'
        ' command prepares it anew',
        str(builder.data_path),
      ) from None
    # TFDS does not replace the folder of another process that was faster.
    if isinstance(error, RuntimeError) or not _is_complete(build()):
      raise
  return build()


def _is_full(error: Exception) -> bool:
  """Tells whether a file did not fit; writers of records say so in words."""
  return any(
    os.strerror(number) in str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
  )


def _check_origin(
  prepared: pathlib.Path, manual_dir: str | os.PathLike[str] | None
) -> None:
  """A sample that was prepared must not pass for the data that are meant."""
  theirs = manual.read_origin(prepared)
  if manual_dir is None or theirs is None:
    return
  ours = pathlib.Path(manual_dir).resolve()
  if theirs != str(ours):
    raise ValueError(
      f'{prepared} was prepared from {theirs}, not from {ours}. Remove it'
      ' to prepare it anew, or name another place for prepared data in the'
      ' environment variable TFDS_DATA_DIR; to use it as it is, leave the'
      ' manual folder out.'
    )


def _is_complete(builder: tfds.core.GeneratorBasedBuilder) -> bool:
  """Tells whether the data set is prepared and no file of it is missing."""
  return (
    # TFDS logs a warning when asked about a folder that is not there.
    builder.data_path.exists()
    and builder.is_prepared()
    and all(
      path.exists()
      for split in builder.info.splits.values()
      for path in split.filepaths
    )
  )
