"""Videos: sound, and frames by their time stamps."""

import fractions
import struct

import av
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile

from data_pipelines.reading import audio_visual
from data_pipelines.reading import audit
from data_pipelines.reading import media
from data_pipelines.reading import pictures
from data_pipelines.reading import videos
from data_pipelines.samples import tiny
from tests import clips


def test_the_sound_of_a_video_has_its_pitch_and_level(recorded):
  values = videos.read_sound(recorded / 'clip.mp4') / 2**15
  # The codec works in blocks of 1,024 and adds some at both ends.
  assert len(values) == pytest.approx(3 * media.RATE, abs=3 * 1024)
  middle = values[8_000:40_000]
  pitch = np.abs(np.fft.rfft(middle)).argmax() * 0.5
  assert pitch == pytest.approx(1000, abs=1)
  # At 24 kbit/s FFmpeg's encoder keeps this tone; of one at 440 Hz it loses up
  # to 8 %, by its version.
  assert np.sqrt(2) * middle.std() == pytest.approx(0.5, rel=0.03)


def test_stereo_sound_of_a_video_is_averaged_and_resampled(tmp_path):
  """Tones of two pitches, one on each side, at 44.1 kHz."""
  sides = np.stack([clips.sine(500, 2, 44_100), clips.sine(1500, 2, 44_100)])
  with av.open(str(tmp_path / 'a.mp4'), 'w') as container:
    stream = container.add_stream('aac', rate=44_100)
    stream.layout = 'stereo'
    frame = av.AudioFrame.from_ndarray(
      sides.astype(np.float32), 'fltp', 'stereo'
    )
    frame.sample_rate = 44_100
    for each in (frame, None):
      container.mux(stream.encode(each))
  values = videos.read_sound(tmp_path / 'a.mp4')[8_000:24_000] / 2**15
  amplitudes = np.abs(np.fft.rfft(values)) / len(values) * 2
  # In one second, bin k is k Hz. Each side has half of the level.
  assert amplitudes[500] == pytest.approx(0.25, rel=0.05)
  assert amplitudes[1500] == pytest.approx(0.25, rel=0.05)
  others = np.delete(amplitudes, [500, 1500])
  assert others.max() < 0.02


# Frames.


def each_second(path):
  return videos.read_frames(path, media.one_each_second)


def test_frames_are_those_that_were_chosen(recorded):
  for name in ('clip.flv', 'clip.mp4', 'fast.mp4'):
    for numbers in ([0, 10, 20], [29], [3, 3, 17, 4]):
      seen = []

      def choose(count, rate, seen=seen, numbers=numbers):
        seen.append((count, rate))
        return numbers

      frames = videos.read_frames(recorded / name, choose)
      assert seen == [(30, 10.0)]
      np.testing.assert_allclose(
        clips.levels(frames),
        [clips.LEVELS[n] for n in numbers],
        atol=3,
      )
      assert clips.decoded(frames).shape[1:] == (48, 64, 3)


def test_frames_are_stored_as_red_green_and_blue(tmp_path):
  """Also in a video of a single frame."""
  colour = np.array([200, 40, 90])
  picture = np.broadcast_to(colour, (48, 64, 3)).astype(np.uint8)
  tiny.write_video(tmp_path / 'a.flv', [picture], fractions.Fraction(10))
  (frame,) = clips.decoded(each_second(tmp_path / 'a.flv'))
  np.testing.assert_allclose(frame.mean(axis=(0, 1)), colour, atol=4)


def write_at(
  path,
  times,
  rate,
  codec='libx264',
  sound=0.0,
  base=fractions.Fraction(1, 1000),
  **options,
):
  """Writes grey frames at the given times, and silence from 0 on."""
  with av.open(str(path), 'w', options=options) as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
    stream.time_base = stream.codec_context.time_base = base
    if sound:
      track = container.add_stream('aac', rate=16_000, layout='mono')
    for time in times:
      picture = np.full((48, 64, 3), grey(time), np.uint8)
      frame = av.VideoFrame.from_ndarray(picture, 'rgb24')
      frame.pts, frame.time_base = round(time / base), base
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    if sound:
      silence = np.zeros((1, round(16_000 * sound)), np.float32)
      frame = av.AudioFrame.from_ndarray(silence, 'fltp', 'mono')
      frame.sample_rate = 16_000
      for each in (frame, None):
        container.mux(track.encode(each))


def grey(time):
  return 20 + np.asarray(time) * 20


def test_frames_of_varying_rate_are_found_by_their_time_stamps(tmp_path):
  """There are thirty a second, but one of them stays for three seconds."""
  path = tmp_path / 'a.mp4'
  early = np.arange(105) / 30
  write_at(path, [*early, *(6.5 + early)], 30)
  shown = [0.5, 1.5, 2.5, 3.5, 3.5, 3.5, 6.5, 7.5, 8.5, 9.5]
  frames = videos.read_frames(path, media.ten_half_seconds)
  # Frames differ by 0.7 levels, seconds by 20.
  np.testing.assert_allclose(clips.levels(frames), grey(shown), atol=3)
  shown = [0, 1, 2, 3, 104 / 30, 104 / 30, 104 / 30, 7, 8, 9]
  np.testing.assert_allclose(
    clips.levels(each_second(path)), grey(shown), atol=3
  )


def test_a_very_late_time_stamp_takes_no_memory(tmp_path):
  path = tmp_path / 'a.mp4'
  write_at(path, [0, 1, 2, 100_000], 1)
  found, detail = clips.reason(each_second, path)
  assert found == 'corrupt' and 's of pictures' in detail


def test_frames_that_begin_late_are_found_by_the_time_of_the_file(tmp_path):
  path = tmp_path / 'a.mp4'
  for late, shown in ((2.0, [2, 2, 2, 3]), (0.05, [0.05, 1.05, 2.05, 3.05])):
    write_at(path, late + np.arange(40) / 20, 20, sound=late + 2)
    count = len(shown) if late > 1 else 2
    np.testing.assert_allclose(
      clips.levels(each_second(path)), grey(shown[:count]), atol=3
    )


def test_whole_videos_are_whole_whatever_their_header_says_of_the_rate(
  tmp_path,
):
  """Frames are dropped at 30 a second; or the sound is longer."""
  path = tmp_path / 'a.flv'
  times = [*(np.arange(10) / 30), *(1 / 3 + np.arange(18) / 8)]
  write_at(path, times, 30, 'flv')
  np.testing.assert_allclose(
    clips.levels(each_second(path)), grey([0, 23 / 24, 47 / 24]), atol=3
  )
  path = tmp_path / 'a.mp4'
  sound = np.zeros(54_400, np.float32)  # 3.4 s
  picture = np.zeros((48, 64, 3), np.uint8)
  tiny.write_video(path, [picture] * 24, fractions.Fraction(10), sound)
  assert len(each_second(path)) == 3


def test_a_wrong_duration_in_the_header_of_flv_is_ignored(tmp_path):
  path = tmp_path / 'a.flv'
  write_at(path, [k / 10 for k in range(30)], 10, 'flv')
  data = path.read_bytes()
  place = data.index(b'duration\x00') + len(b'duration\x00')
  data = data[:place] + struct.pack('>d', 60.0) + data[place + 8 :]
  path.write_bytes(data)
  assert len(each_second(path)) == 3
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(audit.SkipError, match=r'of 60\.0 s: truncated'):
    each_second(path)


@pytest.mark.parametrize(
  ('name', 'codec', 'field', 'place', 'wrong'),
  [
    ('a.mkv', 'libx264', b'\x44\x89\x88', 3, struct.pack('>d', 60_000.0)),
    ('a.avi', 'mpeg4', b'vids', 32, struct.pack('<I', 600)),
  ],
)
def test_a_wrong_duration_in_matroska_and_avi_is_ignored(
  tmp_path, name, codec, field, place, wrong
):
  """They also say how many bytes they have, which tells truncation."""
  path = tmp_path / name
  base = fractions.Fraction(1, 10)
  write_at(path, np.arange(30) / 10, 10, codec, base=base)
  data = bytearray(path.read_bytes())
  place += data.index(field)
  data[place : place + len(wrong)] = wrong
  path.write_bytes(data)
  assert len(each_second(path)) == 3
  path.write_bytes(data[: len(data) * 7 // 8])
  with pytest.raises(audit.SkipError, match=r' s: truncated'):
    each_second(path)


@pytest.mark.parametrize(
  'options',
  [
    {'movflags': 'faststart'},
    {'movflags': 'frag_keyframe+empty_moov', 'frag_duration': '500000'},
  ],
  ids=['samples', 'fragments'],
)
@pytest.mark.parametrize('box', ['mvhd', 'tkhd', 'mdhd'])
def test_wrong_durations_in_mp4_are_ignored(tmp_path, box, options):
  """Of the file, of a track or of its media: an hour too long."""
  path = tmp_path / 'a.mp4'
  write_at(path, np.arange(30) / 10, 10, **options)
  data = bytearray(path.read_bytes())
  place = data.index(box.encode()) + (24 if box == 'tkhd' else 20)
  ticks = 1000 * 3600  # or 1/12,800 s, of media
  data[place : place + 4] = struct.pack('>I', 13 * ticks)
  path.write_bytes(data)
  np.testing.assert_allclose(
    clips.levels(each_second(path)), grey([0, 1, 2]), atol=3
  )
  path.write_bytes(data[: len(data) * 7 // 8])
  if 'frag_duration' in options and box != 'mdhd':
    return  # FFmpeg adds up existing fragments, and cannot know of others
  with pytest.raises(audit.SkipError, match='truncated'):
    each_second(path)


def test_frames_that_an_edit_list_cuts_off_are_not_used(recorded, tmp_path):
  """`ffmpeg -ss 1.2 -c copy` trims so: the first frames stay in the file."""
  clips.remux(recorded / 'clip.mp4', tmp_path / 'a.mp4', cut=1.2)
  frames = each_second(tmp_path / 'a.mp4')
  np.testing.assert_allclose(
    clips.levels(frames), [clips.LEVELS[12], clips.LEVELS[22]], atol=3
  )


# Rotations of the picture, as a phone writes them into the header; and where
# the corner that was top left is then.
TURNS = {
  (1, 0, 0, 1): (0, 0),
  (0, 1, -1, 0): (0, -1),
  (-1, 0, 0, -1): (-1, -1),
  (0, -1, 1, 0): (-1, 0),
}


def test_frames_come_upright(tmp_path):
  picture = np.full((48, 64, 3), 120, np.uint8)
  picture[:16, :16] = 0
  tiny.write_video(tmp_path / 'a.mp4', [picture] * 5, fractions.Fraction(5))
  whole = (tmp_path / 'a.mp4').read_bytes()

  def header(a, b, c, d):
    parts = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    return struct.pack('>9i', *parts)

  at = whole.index(header(1, 0, 0, 1), whole.index(b'tkhd'))
  for turn, corner in TURNS.items():
    content = whole[:at] + header(*turn) + whole[at + 36 :]
    (tmp_path / 'b.mp4').write_bytes(content)
    (frame,) = clips.decoded(each_second(tmp_path / 'b.mp4'))
    assert frame.shape[:2] == ((48, 64) if turn[0] else (64, 48))
    corners = frame[::47, ::63] if turn[0] else frame[::63, ::47]
    expected = np.full((2, 2), 120)
    expected[corner] = 0
    np.testing.assert_allclose(corners.mean(2), expected, atol=12)


def test_a_title_in_another_encoding_is_ignored(tmp_path, recorded):
  path = tmp_path / 'a.mp4'
  clips.remux(recorded / 'clip.mp4', path, title='XXXXX')
  content = path.read_bytes()
  assert b'XXXXX' in content
  path.write_bytes(content.replace(b'XXXXX', 'café!'.encode('latin-1')))
  assert len(each_second(path)) == 3


def test_sound_that_changes_channels_and_rate_is_read(tmp_path):
  """MP3 files that were joined are like this."""
  tone = clips.sine(440, 1, 44_100, 0.4)
  soundfile.write(tmp_path / '1.mp3', tone, 44_100)
  soundfile.write(tmp_path / '2.mp3', np.stack([tone, tone], 1), 44_100)
  path = tmp_path / 'a.mp4'
  parts = [(tmp_path / name).read_bytes() for name in ('1.mp3', '2.mp3')]
  path.write_bytes(b''.join(parts))
  values = videos.read_sound(path) / 2**15
  assert len(values) == pytest.approx(2 * media.RATE, abs=0.15 * media.RATE)
  for part in (values[4_000:12_000], values[-12_000:-4_000]):
    assert np.sqrt(2) * part.std() == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize(
  ('choose', 'count', 'rate', 'expected'),
  [
    (media.one_each_second, 1, 30.0, [0]),
    (media.one_each_second, 30, 30.0, [0]),
    (media.one_each_second, 31, 30.0, [0, 30]),
    (media.one_each_second, 75, 29.97, [0, 29, 58]),
    (media.one_each_second, 75, 14.99, [0, 14, 28, 42, 56, 70]),
    (media.one_each_second, 3, 0.5, [0, 1, 2]),
    (media.one_each_second, 3, 0.0, [0, 1, 2]),
    (media.ten_half_seconds, 300, 30.0, range(15, 300, 30)),
    (media.ten_half_seconds, 900, 25.0, range(12, 250, 25)),
    (media.ten_half_seconds, 100, 10.0, range(5, 100, 10)),
    # One frame too short for the last place: the last second is 90 to 94.
    (media.ten_half_seconds, 95, 10.0, [*range(5, 90, 10), 90]),
    # The last second is 20 to 22, of which place 25 is number 5, and so on.
    (
      *(media.ten_half_seconds, 23, 10.0),
      [5, 15, 22, 20, 21, 22, 20, 21, 22, 20],
    ),
    (media.ten_half_seconds, 3, 10.0, [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]),
    (media.ten_half_seconds, 1, 30.0, [0] * 10),
  ],
)
def test_frames_are_chosen_by_their_numbers(choose, count, rate, expected):
  assert choose(count, rate) == list(expected)


@hypothesis.given(st.integers(1, 2000), st.floats(0.5, 120))
def test_all_frames_that_are_chosen_exist(count, rate):
  places = media.ten_half_seconds(count, rate)
  assert len(places) == 10
  each = media.one_each_second(count, rate)
  assert each[0] == 0 and each == sorted(set(each))
  assert all(0 <= number < count for number in [*places, *each])


def test_a_video_is_preferred_to_its_pictures(recorded, tmp_path):
  folder = tmp_path / 'pictures'
  folder.mkdir()
  data = pictures.jpeg(np.full((8, 8, 3), 250, np.uint8))
  (folder / '0.jpg').write_bytes(data)

  def read(video, folder):
    return clips.levels(
      audio_visual.read_frames(video, folder, media.one_each_second)
    )

  both = read(recorded / 'clip.flv', folder)
  np.testing.assert_allclose(both, clips.LEVELS[::10], atol=3)
  assert read(tmp_path / 'absent.flv', folder) == [250]
  with pytest.raises(audit.SkipError, match=r'absent\.flv is not there'):
    read(tmp_path / 'absent.flv', tmp_path / 'absent')
