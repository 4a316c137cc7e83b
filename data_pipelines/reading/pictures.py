"""Reads pictures and folders of them, and writes one."""

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
  import PIL.ImageOps

# What OpenCV writes by default, and so the field's frames have.
_JPEG_QUALITY = 95
_SUFFIXES = ('.jpg', '.jpeg')
# Of the shorter side; what is larger is more than twice what models look at.
_MOST_PIXELS_A_SIDE = 512
_ORIENTATION = 0x0112  # of Exif


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


def read(path: pathlib.Path) -> bytes:
  """Reads a picture of a user's.

  Args:
    path: JPEG, PNG or WebP.

  Returns:
    Its bytes, as they are; but one that is to be turned, as cameras say, is
    upright, and one whose shorter side has more than 512 pixels has 512 there,
    both as JPEG: else every epoch would decode all pixels of the camera.

  Raises:
    SkipError: if it is missing or damaged.
  """
  data = media.check(path).read_bytes()
  with media.decoding(path):
    picture = _pictures.opened(data)
    picture.load()
    shorter = min(picture.size)
    is_upright = picture.getexif().get(_ORIENTATION, 1) == 1
    if is_upright and shorter <= _MOST_PIXELS_A_SIDE:
      return data
    picture = PIL.ImageOps.exif_transpose(picture).convert('RGB')
    if shorter > _MOST_PIXELS_A_SIDE:
      factor = _MOST_PIXELS_A_SIDE / shorter
      width, height = (max(1, round(side * factor)) for side in picture.size)
      picture = picture.resize(
        (width, height), PIL.Image.Resampling.BILINEAR, reducing_gap=2
      )
    return jpeg(np.asarray(picture))


def jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
  """Encodes a picture [height, width, 3] as JPEG."""
  stream = io.BytesIO()
  PIL.Image.fromarray(picture).save(stream, 'jpeg', quality=_JPEG_QUALITY)
  return stream.getvalue()


def _natural(path: pathlib.Path) -> list[tuple[str, int]]:
  """What to sort by: numbers in the name count as numbers."""
  parts = re.findall(r'([^0-9]*)([0-9]*)', path.stem)
  return [(text, int(digits[-18:] or -1)) for text, digits in parts]
