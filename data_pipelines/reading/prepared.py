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

  The type is restored because TFDS decodes scalars to Python numbers. Features
  hold one array each.
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
    # ArrayRecord takes no negative indices, and raises no IndexError.
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
  """Returns a builder whose data set is prepared; prepares it if necessary.

  Args:
    builder_class: The data set's builder.
    config: A config or its name; None is the default one.
    data_dir: Where prepared data sets are; None is TFDS's default.
    manual_dir: Where the user has put the files; None is TFDS's default.

  Raises:
    OSError: if the files cannot be written.
    ValueError: if they were prepared from another folder of the user.
  """
  # TFDS reads the variable only on import; this respects later changes.
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
  # An incomplete folder with the final name is a damaged copy. TFDS would take
  # it for prepared unless it is told to overwrite it.
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
        f'no space is left for {builder.name}; {error}. Free some space, or set'
        ' TFDS_DATA_DIR to another place for prepared data. Then run the same'
        ' command again',
        str(builder.data_path),
      ) from None
    place = pathlib.Path(builder.data_path)
    if isinstance(error, OSError) and _is_refused(error, place):
      raise OSError(
        error.errno,
        f'{builder.name} cannot be prepared there. Set TFDS_DATA_DIR to another'
        ' place for prepared data. Then run the same command again',
        error.filename,
      ) from None
    # TFDS fails if another process was faster, whose folder is then used.
    if isinstance(error, RuntimeError) or not _is_complete(build()):
      raise
  return build()


def _is_full(error: Exception) -> bool:
  """Tells whether the disk was full; record writers say so only in words."""
  return any(
    os.strerror(number) in str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
  )


def _is_refused(error: OSError, prepared: pathlib.Path) -> bool:
  """Tells whether nothing may be written where prepared data are."""
  return (
    error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    and error.filename is not None
    and prepared.is_relative_to(pathlib.Path(error.filename).parent)
  )


def _check_origin(
  prepared: pathlib.Path, manual_dir: str | os.PathLike[str] | None
) -> None:
  """Refuses data prepared from another folder, such as a sample."""
  origin = manual.read_origin(prepared)
  if manual_dir is None or origin is None:
    return
  wanted = pathlib.Path(manual_dir).resolve()
  if origin != str(wanted):
    raise ValueError(
      f'{prepared} was prepared from {origin}, not from {wanted}. Remove it to'
      ' prepare it again, or set the environment variable TFDS_DATA_DIR to'
      ' another place for prepared data. To use it as it is, leave the manual'
      ' folder out.'
    )


def _is_complete(builder: tfds.core.GeneratorBasedBuilder) -> bool:
  """Tells whether the data set is prepared and all its files exist."""
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
