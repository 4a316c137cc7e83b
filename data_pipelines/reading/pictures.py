"""Reads folders of pictures, and writes one."""

import io
import pathlib
import re

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import _pictures
from data_pipelines.reading import audit
from data_pipelines.reading import media

with _extra.data_extra():
  import PIL.Image

# What OpenCV writes by default, and so the field's frames have.
_JPEG_QUALITY = 95
_SUFFIXES = ('.jpg', '.jpeg')


def read_folder(folder: pathlib.Path) -> list[bytes]:
  """Reads the JPEG files of a folder, in the order of their names.

  Args:
    folder: Frames of a clip that others have extracted. Numbers in their names
      are compared as numbers: 2 is before 10.

  Returns:
    Their bytes, as they are.

  Raises:
    SkipError: if there is none, or one is damaged.
  """
  paths = sorted(
    (
      path
      for path in (folder.iterdir() if folder.is_dir() else ())
      if path.suffix.lower() in _SUFFIXES and not path.name.startswith('.')
    ),
    key=_natural,
  )
  if not paths:
    raise audit.SkipError('missing', f'{folder} has no .jpg file')
  pictures = []
  for path in paths:
    data = media.check(path).read_bytes()
    with media.decoding(path):
      _pictures.opened(data).load()
    pictures.append(data)
  return pictures


def jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
  """Encodes a picture [height, width, 3] as JPEG."""
  stream = io.BytesIO()
  PIL.Image.fromarray(picture).save(stream, 'jpeg', quality=_JPEG_QUALITY)
  return stream.getvalue()


def _natural(path: pathlib.Path) -> list[tuple[str, int]]:
  """What to sort by: numbers in the name count as numbers."""
  parts = re.findall(r'([^0-9]*)([0-9]*)', path.stem)
  return [(text, int(digits[-18:] or -1)) for text, digits in parts]
