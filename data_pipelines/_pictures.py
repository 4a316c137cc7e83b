"""Opens pictures that others have made."""

import io

from data_pipelines import _extra

with _extra.data_extra():
  import PIL
  from PIL import Image

# Pillow knows forty formats by their first bytes, and hands some of them (EPS)
# to other programs.
_FORMATS = ('JPEG', 'PNG', 'WEBP')
MOST_PIXELS = 2**26
"""Of a picture or a frame, as its header says, before memory is taken."""


def opened(data: bytes) -> Image.Image:
  """Opens a picture, without decoding it yet.

  Args:
    data: The bytes of a picture: JPEG, PNG or WebP.

  Returns:
    The picture.

  Raises:
    OSError: if it is of no such format, or too large.
  """
  try:
    picture = Image.open(io.BytesIO(data), formats=_FORMATS)
  except PIL.UnidentifiedImageError as error:  # which names the stream
    raise OSError(f'it is no picture of {", ".join(_FORMATS)}') from error
  if picture.width * picture.height > MOST_PIXELS:
    raise OSError(
      f'{picture.width} x {picture.height} pixels are no frame of a clip'
    )
  return picture
