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
  """Returns the folder that the user named, or TFDS's default folder.

  Its path is written among the data while they are being prepared. TFDS moves
  both to their final place together, so every prepared data set has it.

  Args:
    builder: A TFDS builder with `MANUAL_DOWNLOAD_INSTRUCTIONS`, in the middle
      of preparing.
    dl_manager: The builder's download manager.

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
  """Writes the path of the user's folder, of any bytes, among prepared data."""
  (prepared / ORIGIN).write_bytes(os.fsencode(f'{root.resolve()}\n'))


def read_origin(prepared: pathlib.Path) -> str | None:
  """Reads the path that `write_origin` wrote, or None if there is none."""
  path = prepared / ORIGIN
  return os.fsdecode(path.read_bytes()).strip() if path.exists() else None


def is_pointer(path: pathlib.Path) -> bool:
  """Tells whether a file is only a pointer of Git LFS to the real file."""
  with path.open('rb') as stream:
    return stream.read(len(_LFS)) == _LFS


def is_whole(path: pathlib.Path) -> bool:
  """Tells whether a file exists and is neither empty nor such a pointer."""
  return path.is_file() and path.stat().st_size > 0 and not is_pointer(path)


def walk(
  root: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
  """Walks through a folder and its subfolders, and follows links.

  Media are often on another disk, behind a link. Links may form a loop, so each
  folder is visited only once.

  Yields:
    A folder, and the sorted names of its subfolders and of its files. The
    caller may remove subfolders from the list, and they are not visited.
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
  """Returns the first of several paths that is a file, or None."""
  return next((root / name for name in names if (root / name).is_file()), None)


def file(root: pathlib.Path, names: tuple[str, ...], tree: str) -> pathlib.Path:
  """Returns what `first` does, if it is not a pointer.

  Raises:
    FileNotFoundError: if there is none; it shows the expected `tree` and what
      was found.
    ValueError: if it is a pointer of Git LFS.

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
  """Lists the first files in a folder and its subfolders, for errors."""
  names: list[str] = []
  for parent, _, files in walk(root):
    for name in files:
      if len(names) == _MOST_LISTED:
        return ', '.join([*names, '...'])
      names.append((parent / name).relative_to(root).as_posix())
  return ', '.join(names) or 'no file'
