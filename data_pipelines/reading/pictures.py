"""Reads pictures and folders of them; writes pictures."""

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
  import PIL.ExifTags
  import PIL.Image

# OpenCV's default, and therefore the quality of the field's frames.
_JPEG_QUALITY = 95
_SUFFIXES = ('.jpg', '.jpeg')
# By EXIF orientation, which cameras write; 1 is upright.
_TURNS = {
  2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
  3: PIL.Image.Transpose.ROTATE_180,
  4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
  5: PIL.Image.Transpose.TRANSPOSE,
  6: PIL.Image.Transpose.ROTATE_270,
  7: PIL.Image.Transpose.TRANSVERSE,
  8: PIL.Image.Transpose.ROTATE_90,
}


def read_folder(folder: pathlib.Path) -> list[bytes]:
  """Reads a clip's frames, the JPEG files of a folder, in the order of `paths`.

  Raises:
    SkipError: if there is no frame, or one is damaged.
  """
  found = paths(folder)
  if not found:
    raise audit.SkipError('missing', f'{folder} has no .jpg file')
  return [read(path, largest=None) for path in found]


def paths(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the JPEG files of a folder by name; none if it is not a folder.

  Numbers in names are compared as numbers: 2 comes before 10.
  """
  return sorted(
    (
      path
      for path in (folder.iterdir() if folder.is_dir() else ())
      if path.suffix.lower() in _SUFFIXES and not path.name.startswith('.')
    ),
    key=_natural,
  )


def read(path: pathlib.Path, largest: int | None = 512) -> bytes:
  """Reads a user's picture, turned upright and not too large.

  Args:
    path: JPEG, PNG or WebP.
    largest: The most pixels of the shorter side; None for no limit. The default
      is more than twice what models look at. Without a limit, every epoch would
      decode the full picture of a camera.

  Returns:
    The bytes of the file as they are, unless the picture has to be turned, as
    its EXIF orientation says, or reduced; then those of a new JPEG.

  Raises:
    SkipError: if it is missing or damaged.
  """
  data = media.check(path).read_bytes()
  with media.decoding(path):
    picture = _pictures.opened(data)
    picture.load()
    shorter = min(picture.size)
    turn = _turn(picture)
    is_large = largest is not None and shorter > largest
    if turn is None and not is_large:
      return data
    picture = _pictures.in_colours(picture)
    if turn is not None:
      picture = picture.transpose(turn)
    if largest is not None and is_large:
      factor = largest / shorter
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


def _turn(picture: PIL.Image.Image) -> PIL.Image.Transpose | None:
  """Returns how to turn a picture upright, or None if it is or does not say."""
  try:
    number = picture.getexif().get(PIL.ExifTags.Base.Orientation)
  except media.OF_DAMAGE:
    return None
  return _TURNS.get(number) if isinstance(number, int) else None


def _natural(path: pathlib.Path) -> list[tuple[str, int]]:
  """Returns a sort key that compares numbers in the name as numbers."""
  parts = re.findall(r'([^0-9]*)([0-9]*)', path.stem)
  return [(text, int(digits[-18:] or -1)) for text, digits in parts]
