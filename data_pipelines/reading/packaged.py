"""Arrays that come with this package, verified by checksum."""

import hashlib
import io
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt


def read(path: pathlib.Path, sha256: str) -> dict[str, npt.NDArray[Any]]:
  """Reads every array of an npz file, name -> array, after verifying the file.

  Args:
    path: The file.
    sha256: Its checksum.

  Raises:
    FileNotFoundError: if there is no file at `path`.
    ValueError: if the file differs from the expected one in any byte.
  """
  expected = (
    f'Expected {path.name} with sha256 {sha256}. Restore the file from the'
    f' repository: git checkout -- data_pipelines/{path.stem}/{path.name}'
  )
  try:
    content = path.read_bytes()
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path} does not exist. {expected}') from error
  checksum = hashlib.sha256(content).hexdigest()
  if checksum != sha256:
    raise ValueError(
      f'{path} is truncated or altered: its {len(content)} bytes have sha256 '
      f'{checksum}. {expected}'
    )
  # Decode the bytes that were verified, rather than read the file again.
  with np.load(io.BytesIO(content)) as archive:
    return dict(archive)
