"""What all data sets of media share: decoding, splits, skipped items."""

import fractions
import io
import subprocess

import av
import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest
import soundfile

from data_pipelines.reading import audio_visual
from data_pipelines.reading import audit
from data_pipelines.reading import media
from data_pipelines.samples import tiny

POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n'
# Of the frames of the videos below, which a decoder gets right within 3.
LEVELS = [20 + 7 * number for number in range(30)]


def sine(pitch, seconds, rate, amplitude=0.5):
  return amplitude * np.sin(
    2 * np.pi * pitch * np.arange(seconds * rate) / rate
  )


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """Three seconds, ten grey frames a second; the MP4 has a tone of 1 kHz.

  `fast.mp4` has the same packets with the table of contents in front, so that
  it can be opened when its end is lost.
  """
  folder = tmp_path_factory.mktemp('videos')
  pictures = [np.full((48, 64, 3), level, np.uint8) for level in LEVELS]
  rate = fractions.Fraction(10)
  tone = sine(1000, 3, media.RATE).astype(np.float32)
  tiny.write_video(folder / 'clip.flv', pictures, rate)
  tiny.write_video(folder / 'clip.mp4', pictures, rate, tone)
  with (
    av.open(str(folder / 'clip.mp4')) as source,
    av.open(
      str(folder / 'fast.mp4'), 'w', options={'movflags': 'faststart'}
    ) as target,
  ):
    streams = {
      each: target.add_stream_from_template(each) for each in source.streams
    }
    for packet in source.demux():
      if packet.dts is not None:  # None ends the stream
        packet.stream = streams[packet.stream]
        target.mux(packet)
  return folder


def levels(frames):
  return [
    np.asarray(PIL.Image.open(io.BytesIO(data)), float).mean()
    for data in frames
  ]


def reason(function, *arguments):
  with pytest.raises(audit.SkipError) as caught:
    function(*arguments)
  return caught.value.reason, caught.value.detail


# Sound.


@pytest.mark.parametrize('rate', [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_and_level(tmp_path, rate):
  soundfile.write(tmp_path / 'a.wav', sine(1000, 2, rate), rate)
  values = media.read_wav(tmp_path / 'a.wav')
  assert values.dtype == np.int16
  assert len(values) == pytest.approx(2 * media.RATE, abs=1)
  # The same tone made at the wanted rate, except where the filter begins.
  expected = sine(1000, 2, media.RATE)[500:-500]
  np.testing.assert_allclose(values[500:31500] / 2**15, expected, atol=2e-3)


def test_a_tone_that_the_rate_cannot_hold_is_removed_not_folded(tmp_path):
  soundfile.write(tmp_path / 'a.wav', sine(12_000, 1, 48_000), 48_000)
  values = media.read_wav(tmp_path / 'a.wav')[500:-500] / 2**15
  assert np.abs(values).max() < 2e-3


def test_another_rate_can_be_asked_for(tmp_path):
  soundfile.write(tmp_path / 'a.wav', sine(440, 1, 16_000), 16_000)
  values = media.read_wav(tmp_path / 'a.wav', 8_000)
  np.testing.assert_allclose(
    values[500:-500] / 2**15, sine(440, 1, 8_000)[500:-500], atol=2e-3
  )


def test_samples_of_16_bits_are_kept_exactly(tmp_path):
  values = np.random.RandomState(0).randint(-(2**15), 2**15, 999)
  values = np.append(values, [2**15 - 1, -(2**15)]).astype(np.int16)
  soundfile.write(tmp_path / 'a.wav', values, media.RATE, subtype='PCM_16')
  np.testing.assert_array_equal(media.read_wav(tmp_path / 'a.wav'), values)


def test_channels_are_averaged(tmp_path):
  stereo = np.array([[3000, 1000], [-200, 400], [0, 7]], np.int16)
  soundfile.write(tmp_path / 'a.wav', stereo, media.RATE, subtype='PCM_16')
  # 3.5 is rounded to the even number.
  assert media.read_wav(tmp_path / 'a.wav').tolist() == [2000, 100, 4]


def test_louder_than_full_scale_is_clipped_not_wrapped(tmp_path):
  loud = np.array([1.5, -1.5, 0.25], np.float32)
  soundfile.write(tmp_path / 'a.wav', loud, media.RATE, subtype='FLOAT')
  stored = media.read_wav(tmp_path / 'a.wav').tolist()
  assert stored == [2**15 - 1, -(2**15), 2**13]


def test_silence_is_sound(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros(50), 16_000, subtype='PCM_16')
  assert media.read_wav(tmp_path / 'a.wav').tolist() == [0] * 50


@pytest.mark.parametrize('size', [0, 2**32 - 1])
def test_a_header_without_a_size_is_no_truncation(tmp_path, size):
  """As programs leave it that write to a pipe."""
  path = tmp_path / 'a.wav'
  soundfile.write(path, sine(440, 1, 16_000), 16_000, subtype='PCM_16')
  data = path.read_bytes()
  path.write_bytes(data[:4] + size.to_bytes(4, 'little') + data[8:])
  assert len(media.read_wav(path)) == 16_000


def test_the_sound_of_a_video_has_its_pitch_and_level(videos):
  values = media.read_sound(videos / 'clip.mp4') / 2**15
  # The codec works in blocks of 1,024 and adds some at the ends.
  assert len(values) == pytest.approx(3 * media.RATE, abs=3 * 1024)
  middle = values[8_000:40_000]
  pitch = np.abs(np.fft.rfft(middle)).argmax() * 0.5
  assert pitch == pytest.approx(1000, abs=1)
  # At 24 kbit/s FFmpeg's encoder keeps this tone; of one at 440 Hz it loses up
  # to 8 %, by its version.
  assert np.sqrt(2) * middle.std() == pytest.approx(0.5, rel=0.03)


def test_stereo_sound_of_a_video_is_averaged_and_resampled(tmp_path):
  """Tones of two pitches, one on each side, at 44.1 kHz."""
  sides = np.stack([sine(500, 2, 44_100), sine(1500, 2, 44_100)])
  with av.open(str(tmp_path / 'a.mp4'), 'w') as container:
    stream = container.add_stream('aac', rate=44_100)
    stream.layout = 'stereo'
    frame = av.AudioFrame.from_ndarray(
      sides.astype(np.float32), 'fltp', 'stereo'
    )
    frame.sample_rate = 44_100
    for each in (frame, None):
      container.mux(stream.encode(each))
  values = media.read_sound(tmp_path / 'a.mp4')[8_000:24_000] / 2**15
  amplitudes = np.abs(np.fft.rfft(values)) / len(values) * 2
  # One second: number k is k Hz. Each side counts one half.
  assert amplitudes[500] == pytest.approx(0.25, rel=0.05)
  assert amplitudes[1500] == pytest.approx(0.25, rel=0.05)
  others = np.delete(amplitudes, [500, 1500])
  assert others.max() < 0.02


# Frames.


@pytest.mark.parametrize('name', ['clip.flv', 'clip.mp4', 'fast.mp4'])
@pytest.mark.parametrize('numbers', [[0, 10, 20], [29], [3, 3, 17, 4]])
def test_frames_are_those_that_were_chosen(videos, name, numbers):
  seen = []

  def choose(count, rate):
    seen.append((count, rate))
    return numbers

  frames = media.read_frames(videos / name, choose)
  assert seen == [(30, 10.0)]
  np.testing.assert_allclose(
    levels(frames), [LEVELS[number] for number in numbers], atol=3
  )
  assert PIL.Image.open(io.BytesIO(frames[0])).size == (64, 48)


def test_frames_are_stored_as_red_green_and_blue(tmp_path):
  colour = np.array([200, 40, 90])
  picture = np.broadcast_to(colour, (48, 64, 3)).astype(np.uint8)
  tiny.write_video(tmp_path / 'a.flv', [picture], fractions.Fraction(10))
  for data in (
    *media.read_frames(tmp_path / 'a.flv', media.one_each_second),
    media.jpeg(picture),
  ):
    stored = np.asarray(PIL.Image.open(io.BytesIO(data)), float)
    np.testing.assert_allclose(stored.mean(axis=(0, 1)), colour, atol=4)


@pytest.mark.parametrize(
  ('count', 'rate', 'expected'),
  [
    (1, 30.0, [0]),
    (30, 30.0, [0]),
    (31, 30.0, [0, 30]),
    (75, 29.97, [0, 29, 58]),
    (75, 14.99, [0, 14, 28, 42, 56, 70]),
    (3, 0.5, [0, 1, 2]),
    (3, 0.0, [0, 1, 2]),
  ],
)
def test_the_first_frame_of_every_second(count, rate, expected):
  assert media.one_each_second(count, rate) == expected


@pytest.mark.parametrize(
  ('count', 'rate', 'expected'),
  [
    (300, 30.0, [15, 45, 75, 105, 135, 165, 195, 225, 255, 285]),
    (900, 25.0, [12, 37, 62, 87, 112, 137, 162, 187, 212, 237]),
    (100, 10.0, [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]),
    # One frame too short for the last place: the last second is 90 to 94.
    (95, 10.0, [5, 15, 25, 35, 45, 55, 65, 75, 85, 90]),
    # The last second is 20 to 22, of which place 25 is number 5, and so on.
    (23, 10.0, [5, 15, 22, 20, 21, 22, 20, 21, 22, 20]),
    (3, 10.0, [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]),
    (1, 30.0, [0] * 10),
  ],
)
def test_ten_frames_at_half_seconds(count, rate, expected):
  assert media.ten_half_seconds(count, rate) == expected


@hypothesis.given(st.integers(1, 2000), st.floats(0.5, 120))
def test_all_frames_that_are_chosen_exist(count, rate):
  places = media.ten_half_seconds(count, rate)
  assert len(places) == 10
  each = media.one_each_second(count, rate)
  assert each[0] == 0 and each == sorted(set(each))
  assert all(0 <= number < count for number in [*places, *each])


def test_pictures_are_read_as_they_are_in_the_order_of_their_names(tmp_path):
  for number in (20, 3, 100):
    data = media.jpeg(np.full((8, 8, 3), number, np.uint8))
    (tmp_path / f'{number:05}.jpg').write_bytes(data)
  (tmp_path / '._00003.jpg').write_bytes(b'a companion that a Mac leaves')
  (tmp_path / 'notes.txt').write_text('x')
  frames = media.read_pictures(tmp_path)
  np.testing.assert_allclose(levels(frames), [3, 20, 100], atol=1)
  assert frames[1] == (tmp_path / '00020.jpg').read_bytes()


# What cannot be read is skipped, for a reason.


def cut(share):
  return lambda data: data[: int(share * len(data))]


READERS = {
  'clip.wav': media.read_wav,
  'clip.flv': lambda path: media.read_frames(path, media.one_each_second),
  'clip.mp4': lambda path: media.read_frames(path, media.one_each_second),
  'fast.mp4': media.read_sound,
}


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize(
  ('damage', 'expected'),
  [
    (cut(0.0), 'corrupt'),
    (cut(0.3), 'corrupt'),
    (cut(0.7), 'corrupt'),
    (lambda _: b'<html>Too many downloads</html>', 'corrupt'),
    (lambda _: POINTER, 'lfs_pointer'),
    (None, 'missing'),
  ],
)
def test_damaged_media_are_skipped(videos, tmp_path, name, damage, expected):
  path = tmp_path / name
  if name == 'clip.wav':
    soundfile.write(path, sine(440, 1, 16_000), 16_000)
  else:
    path.write_bytes((videos / name).read_bytes())
  READERS[name](path)  # whole, it can be read
  if damage:
    path.write_bytes(damage(path.read_bytes()))
  else:
    path.unlink()
  found, detail = reason(READERS[name], path)
  assert found == expected
  assert str(path) in detail


def test_a_video_that_lost_its_end_is_truncated(videos, tmp_path):
  """Its head can be read and says how long it should be."""
  path = tmp_path / 'a.mp4'
  path.write_bytes(cut(0.5)((videos / 'fast.mp4').read_bytes()))
  found, detail = reason(media.read_frames, path, media.one_each_second)
  assert found == 'corrupt' and 'of 3.0 s: truncated' in detail


def test_a_wav_that_lost_a_byte_is_truncated(tmp_path):
  path = tmp_path / 'a.wav'
  soundfile.write(path, sine(440, 1, 16_000), 16_000)
  size = path.stat().st_size
  path.write_bytes(path.read_bytes()[:-1])
  found, detail = reason(media.read_wav, path)
  assert found == 'corrupt' and f'{size - 1} bytes of {size}' in detail


def test_media_without_a_sample_a_frame_or_a_stream(videos, tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros(0), 16_000, subtype='PCM_16')
  assert reason(media.read_wav, tmp_path / 'a.wav')[0] == 'too_short'
  assert reason(media.read_sound, videos / 'clip.flv')[0] == 'no_audio'
  soundfile.write(tmp_path / 'b.wav', sine(440, 1, 16_000), 16_000)
  found, _ = reason(
    media.read_frames, tmp_path / 'b.wav', media.one_each_second
  )
  assert found == 'no_video'


class Streams:
  """A container with one stream of pictures, without a rate of frames."""

  duration = None

  def __init__(self, packets):
    stream = type('', (), {})()
    stream.average_rate = stream.guessed_rate = stream.duration = None
    self.streams = type('', (), {'video': [stream]})()
    self.packets = [type('', (), {'size': size})() for size in packets]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    return None

  def demux(self, stream):
    assert stream is self.streams.video[0]
    return self.packets


@pytest.mark.parametrize(
  ('packets', 'expected'), [([9, 9, 0], 'corrupt'), ([0], 'too_short')]
)
def test_a_video_without_a_rate_or_a_frame_is_skipped(
  tmp_path, monkeypatch, packets, expected
):
  """As some FLV files are, by which the field's script divides."""
  (tmp_path / 'a.flv').write_bytes(b'x')
  monkeypatch.setattr(av, 'open', lambda _: Streams(packets))
  found, detail = reason(
    media.read_frames, tmp_path / 'a.flv', media.ten_half_seconds
  )
  assert found == expected and 'has no frame' in detail


def test_folders_of_pictures_that_cannot_be_read(tmp_path):
  assert reason(media.read_pictures, tmp_path / 'absent')[0] == 'missing'
  assert reason(media.read_pictures, tmp_path)[0] == 'missing'
  path = tmp_path / '00000.jpg'
  path.write_bytes(media.jpeg(np.zeros((40, 40, 3), np.uint8))[:-60])
  found, detail = reason(media.read_pictures, tmp_path)
  assert found == 'corrupt' and str(path) in detail
  path.write_bytes(POINTER)
  assert reason(media.read_pictures, tmp_path)[0] == 'lfs_pointer'


def test_a_picture_of_another_format_reaches_no_other_program(
  tmp_path, monkeypatch
):
  """Pillow hands EPS to Ghostscript, whatever the name of the file."""
  PIL.Image.new('RGB', (8, 8)).save(tmp_path / '1.jpg', 'EPS')
  monkeypatch.setattr(
    subprocess, 'Popen', lambda *_, **__: pytest.fail('a program was started')
  )
  assert reason(media.read_pictures, tmp_path)[0] == 'corrupt'


# What audio-visual data sets have in common.


def test_a_video_goes_before_its_pictures(videos, tmp_path):
  (tmp_path / 'pictures').mkdir()
  data = media.jpeg(np.full((8, 8, 3), 250, np.uint8))
  (tmp_path / 'pictures' / '0.jpg').write_bytes(data)

  def read(video, pictures):
    return levels(
      audio_visual.read_frames(video, pictures, media.one_each_second)
    )

  pictures = tmp_path / 'pictures'
  both = read(videos / 'clip.flv', pictures)
  np.testing.assert_allclose(both, [LEVELS[i] for i in (0, 10, 20)], atol=3)
  assert read(tmp_path / 'absent.flv', pictures) == [250]
  with pytest.raises(audit.SkipError, match=r'absent\.flv is not there'):
    read(tmp_path / 'absent.flv', tmp_path / 'absent')


def test_the_first_path_that_exists(tmp_path):
  one, two, three = (tmp_path / name for name in ('one', 'two', 'three'))
  assert audio_visual.first_that_is(one, two) == one
  three.write_text('x')
  two.mkdir()
  assert audio_visual.first_that_is(one, two, three) == two


def test_features_of_a_clip():
  features = audio_visual.features(['b', 'a'], ['clip_id'])
  assert set(features) == {'audio', 'frames', 'label', 'clip_id'}
  assert features['label'].names == ['b', 'a']
  assert features['audio'].shape == (None,)
  assert features['audio'].np_dtype == np.int16


# Tiny media.


def test_pitch_and_hue_of_samples_tell_the_class():
  random = np.random.RandomState(0)
  for label, pitch in ((0, 200), (1, 200 * 30**0.5), (2, 6000)):
    values = tiny.sound(label, 3, 1.0, random)
    assert np.abs(np.fft.rfft(values)).argmax() == pytest.approx(pitch, abs=1)
    # Red, green and blue, in this order.
    colours = tiny.picture(label, 3, random).mean(axis=(0, 1))
    assert colours.argmax() == label
  with_noise = tiny.picture(0, 3, random, height=6, width=10)
  assert with_noise.shape == (6, 10, 3) and with_noise.std(axis=(0, 1)).min()
