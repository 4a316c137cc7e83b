"""Opens encoded pictures from untrusted files."""

import io

import numpy as np

from data_pipelines import _extra

with _extra.data_extra():
  import PIL
  from PIL import Image

# Pillow would recognise forty formats by their first bytes and hand some of
# them (EPS) to other programs.
_FORMATS = ('JPEG', 'PNG', 'WEBP')
MOST_PIXELS = 2**26
"""Limit on the size in a header, checked before memory is allocated."""


def opened(data: bytes) -> Image.Image:
  """Opens a JPEG, PNG or WebP, without decoding it yet.

  Raises:
    OSError: if it has another format, or is too large.
  """
  try:
    picture = Image.open(io.BytesIO(data), formats=_FORMATS)
  except PIL.UnidentifiedImageError as error:  # its text names only the stream
    raise OSError(f'it is no picture of {", ".join(_FORMATS)}') from error
  except Image.DecompressionBombError as error:  # not an OSError
    raise OSError(str(error)) from error
  if picture.width * picture.height > MOST_PIXELS:
    raise OSError(
      f'{picture.width} x {picture.height} pixels are no frame of a clip'
    )
  return picture


def in_colours(picture: Image.Image) -> Image.Image:
  """Converts a picture to RGB with 8 bits a channel.

  Examples:
    >>> of_16_bits = Image.fromarray(np.array([[0, 40_000, 65_535]], np.uint16))
    >>> np.asarray(in_colours(of_16_bits))[0, :, 0].tolist()
    [0, 156, 255]
  """
  if picture.mode.startswith('I'):
    # Pillow would clip 16-bit grey at 255. Keep the upper 8 bits, as it does
    # for 16-bit colours.
    upper = np.asarray(picture) >> 8
    picture = Image.fromarray(upper.astype(np.uint8))
  return picture.convert('RGB')
