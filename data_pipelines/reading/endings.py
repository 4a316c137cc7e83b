"""Whether a sound file is cut off, by its format's structure."""

import pathlib
from typing import Any

# Of Ogg: its header, a table of sizes of a byte each, and what that may list.
_LARGEST_PAGE = 27 + 255 + 255 * 255
# What writers leave who do not know a length, or near it.
_UNKNOWN = 2**31 - 2**16


def is_lost(path: pathlib.Path) -> bool:
  """Tells whether there is less of a file than its structure says.

  Args:
    path: Ogg, whose pages say in front how long they are; AIFF, which says how
      many bytes follow; or MP3 with a header of Xing's or LAME's, which says
      so, too. Of MP3 a hundredth may be missing: tags come and go.

  Returns:
    Whether it has lost its end; False where its structure does not tell, as of
    other formats and MP3, and of an Ogg that ends between two pages.
  """
  size = path.stat().st_size
  with path.open('rb') as file:
    start = file.read(12)
    if start[:4] == b'OggS':
      file.seek(max(0, size - _LARGEST_PAGE))
      return _is_cut(file.read())
    if start[:4] == b'FORM' and start[8:11] == b'AIF':
      length = int.from_bytes(start[4:8], 'big')
      # The zero behind an odd number of bytes may have been left out.
      return length < _UNKNOWN and size < 8 + length - 1
    begin = 0
    if start[:3] == b'ID3':  # a tag, of 7 bits a byte
      digits = zip(start[6:10], (21, 14, 7, 0), strict=True)
      begin = 10 + sum(byte << shift for byte, shift in digits)
    return size < begin + 0.99 * _bytes_of_mp3(file, begin)


def _is_cut(tail: bytes) -> bool:
  """Whether the last page of an Ogg has fewer bytes than its table lists."""
  page = tail[tail.rfind(b'OggS') :]
  count = page[26] if len(page) > 26 else 255
  return len(page) < 27 + count + sum(page[27 : 27 + count])


def _bytes_of_mp3(file: Any, begin: int) -> int:
  """How many bytes an MP3 says that it has, from its first frame on, or 0."""
  file.seek(begin)
  frame = file.read(64)  # the header is behind 4 bytes and 9 to 32 more
  place = max(frame.find(b'Xing'), frame.find(b'Info'))
  if frame[:1] != b'\xff' or place < 0:
    return 0
  has_frames, has_bytes = frame[place + 7] & 1, frame[place + 7] & 2
  place += 8 + 4 * has_frames
  return int.from_bytes(frame[place : place + 4], 'big') if has_bytes else 0
