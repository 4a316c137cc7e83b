"""Sounds: resampling, mixing, unusual headers, and damage."""

import errno

import numpy as np
import pytest
import soundfile

from data_pipelines.reading import media
from data_pipelines.reading import sounds
from tests import clips


@pytest.fixture
def path(tmp_path):
  """One second of a tone, as a 16-bit WAV file."""
  soundfile.write(tmp_path / 'a.wav', clips.sine(440, 1, 16_000), 16_000)
  return tmp_path / 'a.wav'


def test_resampling_keeps_pitch_and_level(tmp_path):
  to = media.RATE
  for rate, wanted in (
    *((8_000, to), (22_050, to), (44_100, to), (48_000, to)),
    (to, 8_000),
  ):
    soundfile.write(tmp_path / 'a.wav', clips.sine(1000, 2, rate), rate)
    values = sounds.read(tmp_path / 'a.wav', wanted)
    assert values.dtype == np.int16
    assert len(values) == pytest.approx(2 * wanted, abs=1)
    # The same tone made at the wanted rate, except where the filter begins.
    middle = np.s_[500 : 2 * wanted - 500]
    expected = clips.sine(1000, 2, wanted)[middle]
    np.testing.assert_allclose(values[middle] / 2**15, expected, atol=2e-3)


def test_a_tone_above_half_of_the_rate_is_removed_and_not_aliased(tmp_path):
  soundfile.write(tmp_path / 'a.wav', clips.sine(12_000, 1, 48_000), 48_000)
  values = sounds.read(tmp_path / 'a.wav')[500:-500] / 2**15
  assert np.abs(values).max() < 2e-3


def test_samples_of_16_bits_are_kept_exactly(tmp_path):
  values = np.random.RandomState(0).randint(-(2**15), 2**15, 999)
  values = np.append(values, [2**15 - 1, -(2**15)]).astype(np.int16)
  soundfile.write(tmp_path / 'a.wav', values, media.RATE, subtype='PCM_16')
  np.testing.assert_array_equal(sounds.read(tmp_path / 'a.wav'), values)


def test_channels_are_averaged(tmp_path):
  stereo = np.array([[3000, 1000], [-200, 400], [0, 7]], np.int16)
  soundfile.write(tmp_path / 'a.wav', stereo, media.RATE, subtype='PCM_16')
  # 3.5 is rounded to the even number.
  assert sounds.read(tmp_path / 'a.wav').tolist() == [2000, 100, 4]
  soundfile.write(tmp_path / 'a.wav', 0 * stereo, media.RATE)
  assert sounds.read(tmp_path / 'a.wav').tolist() == [0] * 3  # silence is sound


def test_values_above_full_scale_are_clipped_and_not_wrapped(tmp_path):
  loud = np.array([1.5, -1.5, 0.25], np.float32)
  soundfile.write(tmp_path / 'a.wav', loud, media.RATE, subtype='FLOAT')
  stored = sounds.read(tmp_path / 'a.wav').tolist()
  assert stored == [2**15 - 1, -(2**15), 2**13]


def with_lengths(path, riff, data):
  """Changes the lengths in the header of a WAV file."""
  content = bytearray(path.read_bytes())
  content[4:8] = riff.to_bytes(4, 'little')
  content[40:44] = data.to_bytes(4, 'little')
  path.write_bytes(content)


def test_a_file_without_a_length_in_its_header_is_not_truncated(path):
  """FFmpeg, SoX and GStreamer write such headers to a pipe."""
  whole = sounds.read(path)
  for riff, data in (
    (0xFFFFFFFF, 0xFFFFFFFF),
    (0x7FFFF024, 0x7FFFF000),
    (0, 0),
    (0, 32_000),
    (0xFFFFFFFF, 32_000),
  ):
    with_lengths(path, riff, data)
    np.testing.assert_array_equal(sounds.read(path), whole)


def test_a_pad_byte_may_be_missing_at_the_end(tmp_path):
  """The number of bytes is odd, and the header counts the pad byte."""
  path = tmp_path / 'a.wav'
  soundfile.write(path, clips.sine(440, 1, 8_001), 8_001, subtype='PCM_U8')
  content = path.read_bytes()
  assert len(content) % 2 == 0 and content[-1] == 0
  path.write_bytes(content[:-1])
  assert len(sounds.read(path, 8_001)) == 8_001


@pytest.mark.parametrize('length', [32_000, 0])
def test_a_pad_byte_may_be_missing_before_the_samples(path, length):
  """A comment before them has an odd number of bytes."""
  whole, content = sounds.read(path), path.read_bytes()
  with_lengths(path, len(content) - 8, length)
  content = path.read_bytes()
  for pad in (b'', b'\0'):
    comment = b'note' + (3).to_bytes(4, 'little') + b'abc' + pad
    path.write_bytes(content[:36] + comment * 2 + content[36:])
    np.testing.assert_array_equal(sounds.read(path), whole)


def test_a_file_that_lost_its_end_is_truncated(path):
  whole = path.read_bytes()
  for lost in (1, 7, 20_000):
    path.write_bytes(whole[:-lost])
    found, detail = clips.reason(sounds.read, path)
    assert found == 'corrupt'
    assert f'{path} has {32_000 - lost} bytes of sound of 32000' in detail


@pytest.mark.parametrize('suffix', ['mp3', 'ogg', 'aiff'])
def test_files_of_other_formats_that_lost_their_end_are_truncated(
  tmp_path, suffix
):
  path = tmp_path / f'a.{suffix}'
  soundfile.write(path, clips.sine(440, 3, 16_000)[:-1], 16_000)
  whole = path.read_bytes()
  tag = b'ID3\4\0\0' + bytes([0, 0, 1, 2]) + bytes(130)
  for front in (b'', tag) if suffix == 'mp3' else (b'',):
    path.write_bytes(front + whole)
    assert abs(len(sounds.read(path)) - 48_000) < 2
    for lost in (100, len(whole) // 2):
      path.write_bytes(front + whole[:-lost])
      found, detail = clips.reason(sounds.read, path)
      assert found == 'corrupt' and f'{path} has lost its end' in detail
  # Without a length in its header, it is read as far as it goes.
  unsaid = whole.replace(b'Info', b'    ').replace(b'Xing', b'    ')
  if suffix == 'aiff':
    unsaid = whole[:4] + bytes([255] * 4) + whole[8:]
  if suffix != 'ogg':
    path.write_bytes(unsaid[:-1000])
    assert len(sounds.read(path)) < 48_000


@pytest.mark.parametrize('suffix', ['mp3', 'ogg', 'aiff', 'wav', 'flac'])
def test_wherever_its_header_is_cut_a_file_is_skipped(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  soundfile.write(path, clips.sine(440, 1, 16_000), 16_000)
  whole = path.read_bytes()
  for end in range(80):
    path.write_bytes(whole[:end])
    assert clips.reason(sounds.read, path)[0] in ('corrupt', 'too_short'), end


def test_damaged_files_are_skipped_with_a_reason(path):
  whole = path.read_bytes()
  for content, expected in (
    (b'', 'corrupt'),
    (whole[:30], 'corrupt'),
    (whole[: len(whole) // 3], 'corrupt'),
    (b'<html>Too many downloads</html>', 'corrupt'),
    (clips.POINTER, 'lfs_pointer'),
    (None, 'missing'),
  ):
    path.write_bytes(content or b'') if content is not None else path.unlink()
    found, detail = clips.reason(sounds.read, path)
    assert found == expected and str(path) in detail


def test_sounds_without_a_sample_are_too_short(tmp_path):
  path = tmp_path / 'a.wav'
  soundfile.write(path, np.zeros(0), 16_000, subtype='PCM_16')
  assert clips.reason(sounds.read, path)[0] == 'too_short'
  # Also sounds that have no sample left after resampling.
  soundfile.write(path, np.zeros(1), 48_000, subtype='PCM_16')
  assert clips.reason(sounds.read, path)[0] == 'too_short'


def test_a_sample_that_is_nan_or_infinite_is_corrupt(tmp_path):
  for value in (np.nan, np.inf):
    values = np.array([0.1, value, 0.2], np.float32)
    soundfile.write(tmp_path / 'a.wav', values, 16_000, subtype='FLOAT')
    found, detail = clips.reason(sounds.read, tmp_path / 'a.wav')
    assert found == 'corrupt' and 'no number' in detail


def flac_of(path, num_samples):
  """Writes FLAC with another number of samples in its header."""
  soundfile.write(path, clips.sine(440, 1, 16_000), 16_000, format='FLAC')
  content = bytearray(path.read_bytes())
  # STREAMINFO: the last 36 bits before its MD5 sum, 18 to 26 of the file.
  content[21] = content[21] & 0xF0 | num_samples >> 32
  content[22:26] = (num_samples & 0xFFFFFFFF).to_bytes(4, 'big')
  path.write_bytes(content)


@pytest.mark.parametrize('rate', [16_000, 8_000])
def test_flac_without_a_length_as_written_to_a_pipe_is_read(tmp_path, rate):
  known, unknown = tmp_path / 'known.flac', tmp_path / 'unknown.flac'
  flac_of(known, 16_000)
  flac_of(unknown, 0)
  np.testing.assert_array_equal(
    sounds.read(unknown, rate), sounds.read(known, rate)
  )
  unknown.write_bytes(unknown.read_bytes()[:40])
  assert clips.reason(sounds.read, unknown)[0] in ('corrupt', 'no_audio')


def test_memory_is_not_allocated_by_the_length_in_a_header(tmp_path, path):
  flac = tmp_path / 'a.flac'
  flac_of(flac, 16_000)
  assert len(sounds.read(flac)) == 16_000
  flac_of(flac, 2**36 - 1)  # days
  assert clips.reason(sounds.read, flac)[0] == 'corrupt'
  for rate in (1, 2**31 - 1):
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, 'little')
    (tmp_path / 'b.wav').write_bytes(content)
    assert clips.reason(sounds.read, tmp_path / 'b.wav')[0] == 'corrupt'


def test_sounds_longer_than_an_hour_are_refused(tmp_path):
  """FLAC stores an hour of silence in a few bytes."""
  path = tmp_path / 'a.flac'
  soundfile.write(path, np.zeros(3600 * 1000 + 2**17, np.int16), 1000)
  assert 'more than an hour' in clips.reason(sounds.read, path)[1]


def test_errors_of_the_machine_do_not_skip_the_file(path, monkeypatch):
  def forbidden(*_, **__):
    raise PermissionError(errno.EACCES, 'not allowed')

  monkeypatch.setattr(soundfile, 'SoundFile', forbidden)
  with pytest.raises(PermissionError):
    sounds.read(path)
