"""Whether a file of a video or a sound is cut off, by its structure."""

import os
import pathlib
from typing import Any

# An Ogg page: its header, a table of one-byte sizes, and what these add up to.
_LARGEST_PAGE = 27 + 255 + 255 * 255
UNKNOWN = 2**31 - 2**16
"""From here on, no length is real.

A writer to a pipe cannot go back to fill in the length. It leaves 0, or a
number near the largest one, signed (SoX) or not.
"""


def is_whole_video(path: pathlib.Path) -> bool:
  """Tells whether a video file provably ends where its structure says.

  The structure of these formats tells: FLV, where the size of each tag follows
  the tag, too; AVI and Matroska (WebM), which begin with the number of bytes
  that follow; and fragmented MP4 with a table of the fragments at the end. For
  other MP4 no such proof is needed: FFmpeg takes the duration from the list of
  samples and ignores the one in the header, which may be wrong.

  Returns:
    False, too, if the structure does not tell, as in other formats and in
    Matroska that was written live.
  """
  size = path.stat().st_size
  with path.open('rb') as file:
    start = file.read(12)
    file.seek(0)
    if start[:3] == b'FLV':
      return _ends_with_a_tag(file)
    if start[:4] == b'RIFF' and start[8:] == b'AVI ':
      return _end_of_riff(file) <= size
    if start[4:8] == b'ftyp':
      return _ends_with_a_table(file)
    if start[:4] == b'\x1a\x45\xdf\xa3':
      end = _end_of_segment(file)
      return end is not None and end <= size
  return False


def _ends_with_a_tag(file: Any) -> bool:
  size = file.seek(-4, os.SEEK_END)
  tag_size = int.from_bytes(file.read(4), 'big')
  if not 11 < tag_size < size - 5:
    return False
  file.seek(-4 - tag_size, os.SEEK_END)
  tag = file.read(4)
  return (
    tag[0] in (8, 9, 18) and int.from_bytes(tag[1:], 'big') + 11 == tag_size
  )


def _ends_with_a_table(file: Any) -> bool:
  """Whether an MP4 ends with a table of its fragments.

  The table is the box `mfra`. Its last part is the box `mfro`, which ends with
  the size of `mfra` (ISO/IEC 14496-12).
  """
  size = file.seek(-16, os.SEEK_END) + 16
  tail = file.read(16)
  table_size = int.from_bytes(tail[12:], 'big')
  if tail[4:8] != b'mfro' or not 24 <= table_size < size:
    return False
  file.seek(-table_size, os.SEEK_END)
  return bool(file.read(8) == tail[12:] + b'mfra')


def _end_of_riff(file: Any) -> int:
  """Where the last RIFF chunk should end; a large AVI has several chunks."""
  end = 0
  while (chunk := file.read(8))[:4] == b'RIFF' and len(chunk) == 8:
    end += 8 + int.from_bytes(chunk[4:], 'little')
    file.seek(end)
  return end


def _end_of_segment(file: Any) -> int | None:
  """Where Matroska's segment should end, which follows the EBML header."""
  file.seek(4)
  header = _number(file)
  if header is None:
    return None
  file.seek(header, os.SEEK_CUR)
  if file.read(4) != b'\x18\x53\x80\x67':
    return None
  size = _number(file)
  return None if size is None else file.tell() + size


def _number(file: Any) -> int | None:
  """Reads an EBML number; None if it is cut off, or stands for "unknown"."""
  first = file.read(1)
  length = 9 - first[0].bit_length() if first and first[0] else 9
  rest = file.read(length - 1)
  if length == 9 or len(rest) < length - 1:
    return None
  bits = 7 * length
  value = int.from_bytes(first + rest, 'big') & ((1 << bits) - 1)
  return None if value == (1 << bits) - 1 else value


def is_cut_sound(path: pathlib.Path) -> bool:
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
      return length < UNKNOWN and size < 8 + length - 1
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
