"""Damaged videos, and files that are no videos, are skipped."""

import errno
import fractions
import shutil

import av
import pytest
import soundfile

from data_pipelines.reading import audit
from data_pipelines.reading import media
from data_pipelines.reading import videos
from tests import clips


def each_second(path):
  return videos.read_frames(path, media.one_each_second)


def test_damaged_videos_are_skipped(recorded, tmp_path):
  for name, read in (
    ('clip.flv', each_second),
    ('clip.mp4', each_second),
    ('fast.mp4', each_second),
    ('fast.mp4', videos.read_sound),
  ):
    path = tmp_path / name
    whole = (recorded / name).read_bytes()
    for content, expected in (
      (b'', 'corrupt'),
      (whole[: len(whole) * 3 // 10], 'corrupt'),
      (whole[: len(whole) * 7 // 10], 'corrupt'),
      (b'<html>Too many downloads</html>', 'corrupt'),
      (clips.POINTER, 'lfs_pointer'),
    ):
      path.write_bytes(content)
      found, detail = clips.reason(read, path)
      assert found == expected and str(path) in detail, (name, content[:20])
    path.unlink()
    assert clips.reason(read, path)[0] == 'missing'


def test_a_video_that_lost_its_end_is_truncated(recorded, tmp_path):
  """Its header can be read, and says how long it should be."""
  path = tmp_path / 'a.mp4'
  whole = (recorded / 'fast.mp4').read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  found, detail = clips.reason(each_second, path)
  assert found == 'corrupt' and 's of 3.1 s: truncated' in detail


def test_videos_without_a_stream_are_skipped(recorded, tmp_path):
  found, _ = clips.reason(videos.read_sound, recorded / 'clip.flv')
  assert found == 'no_audio'
  soundfile.write(tmp_path / 'b.wav', clips.sine(440, 1, 16_000), 16_000)
  assert clips.reason(each_second, tmp_path / 'b.wav')[0] == 'no_video'


def test_pictures_of_no_known_codec_are_skipped(recorded, tmp_path):
  whole = (recorded / 'clip.mp4').read_bytes()
  assert b'avc1' in whole
  (tmp_path / 'a.mp4').write_bytes(whole.replace(b'avc1', b'xyz1'))
  found, detail = clips.reason(each_second, tmp_path / 'a.mp4')
  assert found == 'corrupt' and 'codec that FFmpeg does not know' in detail


class Streams:
  """Writes a container with one stream of pictures and no frame rate."""

  duration = None

  def __init__(self, sizes):
    stream = type('', (), {})()
    stream.average_rate = stream.guessed_rate = None
    stream.width = stream.height = 8
    stream.codec_context = stream
    self.streams = type('', (), {'video': [stream]})()
    entries = {'pts': None, 'duration': None, 'is_discard': False}
    entries |= {'stream': stream, 'time_base': fractions.Fraction(1, 1000)}
    self.packets = [type('', (), {**entries, 'size': n})() for n in sizes]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    return None

  def demux(self):
    return self.packets


def test_a_video_without_stamps_and_rate_or_without_a_frame_is_skipped(
  tmp_path, monkeypatch
):
  """Some FLV files are like this, and the field's script divides by it."""
  (tmp_path / 'a.flv').write_bytes(b'x')
  for sizes, expected, said in (
    ([9, 9, 0], 'corrupt', 'no time stamps and no frame rate'),
    ([0], 'too_short', 'has no frame'),
  ):
    container = Streams(sizes)
    monkeypatch.setattr(av, 'open', lambda *_, c=container, **__: c)
    found, detail = clips.reason(each_second, tmp_path / 'a.flv')
    assert found == expected and said in detail


def test_errors_of_decoders_with_numbers_of_the_system_skip_the_file(
  tmp_path, monkeypatch
):
  """FFmpeg's decoders return -1 for damage, which is `PermissionError`."""
  (tmp_path / 'a.mp4').write_bytes(b'x')
  for number, expected in (
    (errno.EPERM, audit.SkipError),
    (errno.EIO, audit.SkipError),
    (errno.EMFILE, OSError),
  ):

    def damaged(*_, number=number, **__):
      av.error.err_check(-number)

    monkeypatch.setattr(av, 'open', damaged)
    with pytest.raises(expected):
      each_second(tmp_path / 'a.mp4')


def test_a_file_that_lists_other_files_opens_none_of_them(recorded, tmp_path):
  """FFmpeg has formats that name other files, or addresses."""
  other = shutil.copy(recorded / 'clip.mp4', tmp_path / 'clip.mp4')
  path = tmp_path / 'a.mp4'
  for content in (
    "ffconcat version 1.0\nfile 'clip.mp4'\n",
    f"ffconcat version 1.0\nfile '{other}'\n",
    f'#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n',
    'v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96',
  ):
    path.write_text(content)
    for read in (each_second, videos.read_sound):
      assert clips.reason(read, path)[0] == 'corrupt', content
