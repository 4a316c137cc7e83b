"""Whether a sound file is cut off, by its format's structure."""

import pathlib
from typing import Any

# An Ogg page: its header, a table of one-byte sizes, and what these add up to.
_LARGEST_PAGE = 27 + 255 + 255 * 255
# Writers that do not know the length leave this number or one close above it.
_UNKNOWN = 2**31 - 2**16


def is_lost(path: pathlib.Path) -> bool:
  """Tells whether a sound file is shorter than its structure says.

  The structure of these formats tells: Ogg, whose pages begin with their size;
  AIFF and MP3 with a Xing or LAME header, which begin with the number of bytes
  that follow. An MP3 may lack a hundredth of its bytes, since programs add and
  remove tags.

  Returns:
    False, too, if the structure does not tell, as in other formats, other MP3
    and an Ogg that ends between two pages.
  """
  size = path.stat().st_size
  with path.open('rb') as file:
    start = file.read(12)
    if start[:4] == b'OggS':
      file.seek(max(0, size - _LARGEST_PAGE))
      return _is_cut(file.read())
    if start[:4] == b'FORM' and start[8:11] == b'AIF':
      length = int.from_bytes(start[4:8], 'big')
      # The zero that pads an odd number of bytes may be missing.
      return length < _UNKNOWN and size < 8 + length - 1
    begin = 0
    if start[:3] == b'ID3':  # a tag; its size has 7 bits in each byte
      digits = zip(start[6:10], (21, 14, 7, 0), strict=True)
      begin = 10 + sum(byte << shift for byte, shift in digits)
    return size < begin + 0.99 * _bytes_of_mp3(file, begin)


def _is_cut(tail: bytes) -> bool:
  """Whether the last page of an Ogg has fewer bytes than its table lists."""
  page = tail[tail.rfind(b'OggS') :]
  count = page[26] if len(page) > 26 else 255
  return len(page) < 27 + count + sum(page[27 : 27 + count])


def _bytes_of_mp3(file: Any, begin: int) -> int:
  """Bytes that an MP3 should have from its first frame on; 0 if unknown."""
  file.seek(begin)
  frame = file.read(64)  # the header comes after 4 bytes and 9 to 32 more
  place = max(frame.find(b'Xing'), frame.find(b'Info'))
  if frame[:1] != b'\xff' or place < 0 or len(frame) < place + 8:
    return 0
  has_frames, has_bytes = frame[place + 7] & 1, frame[place + 7] & 2
  place += 8 + 4 * has_frames
  return int.from_bytes(frame[place : place + 4], 'big') if has_bytes else 0
