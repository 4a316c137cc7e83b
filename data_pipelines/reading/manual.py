"""Folders that users fill: what is expected, and what was found."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

# What Git leaves in place of a file that Git LFS has not downloaded.
_LFS = b'version https://git-lfs'
_MOST_LISTED = 20
ORIGIN = 'prepared_from.txt'
"""The file, beside prepared data, with the name of the user's folder."""


def folder(builder: Any, dl_manager: Any) -> pathlib.Path:
  """Returns the folder that the user named, or TFDS's place for one.

  Its name is written beside the data that are being prepared, and gets its
  final place with them, so that no prepared data set is without it.

  Args:
    builder: TFDS's, with `MANUAL_DOWNLOAD_INSTRUCTIONS`, while it prepares.
    dl_manager: The builder's.

  Returns:
    A folder that is not empty.

  Raises:
    FileNotFoundError: if it is missing or empty.
  """
  try:
    root = pathlib.Path(dl_manager.manual_dir)
  except AssertionError as error:
    first_line = str(error).split(' Create it')[0]
    raise FileNotFoundError(
      f'{first_line} Name the folder as manual_dir.'
      f' {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}'
    ) from error
  write_origin(pathlib.Path(builder.data_path), root)
  return root


def write_origin(prepared: pathlib.Path, root: pathlib.Path) -> None:
  """Writes the user's folder, a path of any bytes, beside prepared data."""
  (prepared / ORIGIN).write_bytes(os.fsencode(f'{root.resolve()}\n'))


def read_origin(prepared: pathlib.Path) -> str | None:
  """Reads what `write_origin` wrote; None if nothing was."""
  path = prepared / ORIGIN
  return os.fsdecode(path.read_bytes()).strip() if path.exists() else None


def is_pointer(path: pathlib.Path) -> bool:
  """Tells whether a file is what Git leaves until Git LFS downloads it."""
  with path.open('rb') as stream:
    return stream.read(len(_LFS)) == _LFS


def is_whole(path: pathlib.Path) -> bool:
  """Tells whether a file is there, and neither empty nor a pointer of Git LFS.

  A link to nowhere is not there.
  """
  return path.is_file() and path.stat().st_size > 0 and not is_pointer(path)


def walk(
  root: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
  """Looks through a folder and those below, behind links as well.

  Media often lie on another disk, behind a link. Links may lead back to where
  they are: each folder is looked through once.

  Yields:
    A folder, the names of the folders in it, of which the caller may remove
    some, and those of its files, both sorted.
  """
  seen = set()
  for parent, folders, files in os.walk(root, followlinks=True):
    found = os.stat(parent)
    if (found.st_dev, found.st_ino) in seen:
      folders.clear()
      continue
    seen.add((found.st_dev, found.st_ino))
    folders.sort()
    yield pathlib.Path(parent), folders, sorted(files)


def check_file(path: pathlib.Path) -> pathlib.Path:
  """Returns the path of a file; ValueError if it is a pointer of Git LFS."""
  if is_pointer(path):
    raise ValueError(
      f'{path} is a pointer of Git LFS, not the file. Fetch it with: git lfs'
      ' pull'
    )
  return path


def first(root: pathlib.Path, names: Iterable[str]) -> pathlib.Path | None:
  """Returns the first of several paths in a folder that is a file, or None."""
  return next((root / name for name in names if (root / name).is_file()), None)


def file(root: pathlib.Path, names: tuple[str, ...], tree: str) -> pathlib.Path:
  """Returns what `first` does, which has to be there.

  Args:
    root: The folder.
    names: Paths in it, the preferred one first.
    tree: What should lie there, for the error.

  Returns:
    The path of a file that is no pointer of Git LFS.

  Raises:
    FileNotFoundError: if there is none of them.
    ValueError: if it is a pointer.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...   root = pathlib.Path(name)
    ...   _ = (root / 'digits.npy').write_bytes(b'')
    ...   file(root, ('labels.npy', 'digits.npy'), 'labels.npy').name
    'digits.npy'
  """
  path = first(root, names)
  if path is None:
    raise FileNotFoundError(
      f'{root} has no {" or ".join(names)}. Expected:\n{tree}\nFound:'
      f' {found(root)}'
    )
  return check_file(path)


def found(root: pathlib.Path) -> str:
  """Lists the files in a folder, the first few of them."""
  names: list[str] = []
  for parent, _, files in walk(root):
    for name in files:
      if len(names) == _MOST_LISTED:
        return ', '.join([*names, '...'])
      names.append((parent / name).relative_to(root).as_posix())
  return ', '.join(names) or 'no file'
