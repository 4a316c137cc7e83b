"""The audio front ends, against definitions written out here."""

import json
import math
import pathlib
import types

import numpy as np
import pytest

from data_pipelines.views import audio

FOLDER = pathlib.Path(__file__).parent.parent / 'reference'
REFERENCE = FOLDER / 'filter_bank.json'
SHAPES = {
  audio.Stft3s: (257, 188, 1),
  audio.Stft5s: (129, 626, 1),
  audio.Psd10s: (257, 1004, 1),
  audio.Psd3s: (257, 299, 1),
  audio.FilterBank: (1024, 128, 1),
}
FRONT_ENDS = list(SHAPES)


def signal(length):
  """Makes a swelling sine with noise and an offset, in 16-bit integers."""
  noise = np.random.RandomState(length).standard_normal(length)
  time = np.arange(length)
  sine = 6000 * np.sin(2 * np.pi * 440 * time / 16_000)
  swell = (1 + time / length) / 2
  return np.round(sine * swell + 900 * noise + 300).astype(np.int16)


def picture(front_end, values, random=None):
  return front_end({'audio': values}, random)[..., 0]


def cycle(values, start, stop):
  """Takes samples of the endlessly repeated signal, as floats in [-1, 1)."""
  repeated = [values[i % len(values)] / 32_768 for i in range(start, stop)]
  return np.array(repeated)


def hann(length):
  """The periodic window: its first value is 0 and its last is not."""
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def log_magnitude(samples, window, hop):
  half = np.zeros(window // 2)
  padded = np.concatenate([half, samples, half])
  columns = []
  for start in range(0, len(samples) + 1, hop):
    spectrum = np.fft.rfft(padded[start : start + window] * hann(window))
    columns.append(np.log(np.abs(spectrum) + 1e-7))
  return np.stack(columns, axis=1)


def normalized_density(samples):
  window = np.ones(512)
  # Tapered over an eighth at each end, as half a period of a raised cosine;
  # periodic, so of a window that is one sample longer.
  taper = 512 / 8
  for i in range(512):
    edge = min(i, 512 - i)
    if edge < taper:
      window[i] = 0.5 - 0.5 * math.cos(math.pi * edge / taper)
  columns = []
  for start in range(0, len(samples) - 511, 159):
    segment = samples[start : start + 512]
    spectrum = np.fft.rfft((segment - segment.mean()) * window)
    density = np.abs(spectrum) ** 2 / (16_000 * np.sum(window**2))
    # One-sided: all but the frequencies without a mirror image count twice.
    density[1:-1] *= 2
    columns.append(np.log(density + 1e-7))
  result = np.stack(columns, axis=1)
  return (result - result.mean()) / (result.std() + 1e-9)


def mel(frequency):
  return 1127 * math.log(1 + frequency / 700)


def kaldi(samples):
  """Kaldi's filter bank of 128 filters at 16 kHz, frame by frame."""
  low, high = mel(20), mel(8000)
  width = (high - low) / 129
  filters = np.zeros([128, 257])
  for m in range(128):
    centre = low + (m + 1) * width
    for k in range(257):
      filters[m, k] = max(0, 1 - abs(mel(k * 16_000 / 512) - centre) / width)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
  rows = []
  for start in range(0, len(samples) - 399, 160):
    frame = samples[start : start + 400] - samples[start : start + 400].mean()
    before = np.concatenate([frame[:1], frame[:-1]])
    power = np.abs(np.fft.rfft((frame - 0.97 * before) * window, 512)) ** 2
    rows.append(np.log(np.maximum(filters @ power, 2.0**-23)))
  return np.array(rows).reshape(-1, 128)


def of_filter_bank(values):
  """Undoes the normalisation of the picture."""
  normalized = picture(audio.FilterBank(), values).astype(np.float64)
  return normalized * 2 * 5.141276 - 4.503877


@pytest.mark.parametrize('length', [1, 300, 20_001, 200_000])
@pytest.mark.parametrize('front_end', FRONT_ENDS)
@pytest.mark.parametrize('training', [False, True])
def test_a_signal_of_any_length_gives_a_finite_picture(
  front_end, length, training
):
  random = np.random.default_rng(length) if training else None
  result = front_end()({'audio': signal(length)}, random)
  assert result.shape == SHAPES[front_end]
  assert result.dtype == np.float32
  assert np.isfinite(result).all()


@pytest.mark.parametrize(
  ('front_end', 'expected'),
  [
    (audio.Stft3s, np.log(1e-7)),
    (audio.Stft5s, np.log(1e-7)),
    (audio.Psd10s, 0),
    (audio.Psd3s, 0),
    (audio.FilterBank, (np.log(2.0**-23) + 4.503877) / (2 * 5.141276)),
  ],
)
def test_silence_is_the_logarithm_of_the_floor(front_end, expected):
  silence = np.zeros(170_000, np.int16)
  np.testing.assert_allclose(
    picture(front_end(), silence), expected, rtol=1e-6, atol=0
  )


# The front ends by their definitions, in float64. The views use float32, whose
# errors are relative to a column's loudest frequency: 1e-3 in the logarithm.


@pytest.mark.parametrize('length', [23_456, 60_000])
def test_stft_of_3_seconds_is_its_definition(length):
  # At 22,050 Hz already, so that nothing is resampled.
  values = signal(length)
  expected = log_magnitude(cycle(values, 0, 66_150), 512, 353)
  result = picture(audio.Stft3s(sample_rate=22_050), values)
  np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize(
  ('random', 'start', 'length'),
  [
    *((None, 40_000, length) for length in (9000, 70_001, 170_000)),
    (np.random.default_rng(5), np.random.default_rng(5).integers(80_001), 9000),
    (types.SimpleNamespace(integers=lambda high: high - 1), 80_000, 9000),
  ],
)
def test_stft_of_5_seconds_starts_in_the_middle_or_at_random_in_training(
  random, start, length
):
  values = signal(length)
  expected = log_magnitude(cycle(values, start, start + 80_000), 256, 128)
  result = picture(audio.Stft5s(), values, random)
  np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize(
  ('front_end', 'size'), [(audio.Psd10s, 160_000), (audio.Psd3s, 48_000)]
)
@pytest.mark.parametrize('length', [33_333, 170_000])
def test_densities_are_their_definition(front_end, size, length):
  values = signal(length)
  expected = normalized_density(cycle(values, 0, size))
  result = picture(front_end(), values)
  np.testing.assert_allclose(result, expected, atol=2e-3)
  assert abs(result.mean()) < 1e-5
  np.testing.assert_allclose(result.std(), 1, rtol=1e-5)


@pytest.mark.parametrize('length', [399, 400, 559, 560, 30_000, 170_000])
def test_the_filter_bank_is_kaldis(length):
  values = signal(length)
  expected = np.zeros([1024, 128])
  rows = kaldi(values / 32_768)[:1024]
  expected[: len(rows)] = rows
  assert len(rows) == min(1024, max(0, (length - 400) // 160 + 1))
  np.testing.assert_allclose(of_filter_bank(values), expected, atol=2e-3)


@pytest.mark.parametrize('length', [30_000, 170_000])
def test_the_filter_bank_is_torchaudios(length):
  case = json.loads(REFERENCE.read_text())['cases'][str(length)]
  result = of_filter_bank(signal(length))
  frames = min(case['frames'], 1024)
  np.testing.assert_allclose(
    result[np.ix_(case['rows'], case['filters'])], case['values'], atol=1e-3
  )
  np.testing.assert_allclose(result[:frames].mean(), case['mean'], atol=1e-4)
  assert not result[frames:].round(5).any()


# Resampling.


@pytest.mark.parametrize('frequency', [300, 3000])
def test_resampling_keeps_frequency_and_level(frequency):
  time = np.arange(48_000) / 16_000
  sine = 8192 * np.sin(2 * np.pi * frequency * time)
  resampled = picture(audio.Stft3s(), np.round(sine).astype(np.int16))
  time = np.arange(66_150) / 22_050
  expected = log_magnitude(
    0.25 * np.sin(2 * np.pi * frequency * time), 512, 353
  )
  # Around the sine and away from the ends, where resampling rings.
  bin_ = round(frequency * 512 / 22_050)
  near = np.s_[bin_ - 2 : bin_ + 3, 4:-4]
  np.testing.assert_allclose(resampled[near], expected[near], atol=0.02)
  assert np.argmax(resampled[:, 90]) == bin_
  # Above 8 kHz, the original has no frequencies, so the result is empty.
  assert resampled[190:, 4:-4].max() < -5


def test_the_overshoot_of_resampling_is_clipped():
  # A square wave of full scale overshoots by up to 18 % when resampled.
  square = np.where(np.arange(48_000) % 64 < 32, 32_767, -32_768)
  values = square.astype(np.int16)
  clipped = picture(audio.Stft3s(), values)
  quiet = picture(audio.Stft3s(), (square // 2).astype(np.int16))
  # Without clipping, half the level would be ln 2 less at every frequency.
  fundamental = round(250 * 512 / 22_050)
  difference = (clipped - quiet)[fundamental, 20:-20].mean()
  assert 0.5 < difference < np.log(2) - 1e-3


@pytest.mark.parametrize('front_end', [audio.Stft5s, audio.Psd10s, audio.Psd3s])
def test_other_sample_rates_are_resampled_to_16_khz(front_end):
  def tone(rate):
    time = np.arange(2 * rate) / rate
    values = np.round(9000 * np.sin(2 * np.pi * 1000 * time))
    return values.astype(np.int16)

  direct = picture(front_end(), tone(16_000))
  other = picture(front_end(sample_rate=48_000), tone(48_000))
  loud = np.argmax(direct.mean(axis=1))
  assert np.argmax(other.mean(axis=1)) == loud
  np.testing.assert_allclose(other[loud].mean(), direct[loud].mean(), atol=0.2)


def test_the_filter_bank_spans_the_stored_rate():
  time = np.arange(48_000) / 48_000
  tone = np.round(9000 * np.sin(2 * np.pi * 12_000 * time)).astype(np.int16)
  result = picture(audio.FilterBank(sample_rate=48_000), tone)
  place = (mel(12_000) - mel(20)) / (mel(24_000) - mel(20)) * 129 - 1
  assert abs(np.argmax(result[:98].mean(axis=0)) - place) < 1
  # A second has 98 frames of 25 ms at any rate; the rest is padding.
  padding = 4.503877 / (2 * 5.141276)
  np.testing.assert_allclose(result[98:], padding, rtol=1e-6)
  assert np.abs(result[97] - padding).min() > 1e-3


# Refused inputs.


@pytest.mark.parametrize('front_end', FRONT_ENDS)
@pytest.mark.parametrize(
  ('element', 'message'),
  [
    ({'sound': np.zeros(9, np.int16)}, r"no 'audio'.*sound"),
    (
      {'audio': np.zeros(0, np.int16)},
      r"'audio'.*n at least 1, got int16 \[0\]",
    ),
    ({'audio': np.zeros(9, np.float32)}, r'int16 \[n\].*got float32 \[9\]'),
    ({'audio': np.zeros([9, 2], np.int16)}, r'got int16 \[9, 2\]'),
  ],
)
def test_anything_but_a_signal_is_refused(front_end, element, message):
  with pytest.raises(ValueError, match=message):
    front_end()(element, None)


@pytest.mark.parametrize('front_end', FRONT_ENDS)
def test_the_source_is_chosen_and_left_alone(front_end):
  values = signal(5000)
  before = values.copy()
  values.flags.writeable = False
  other = front_end(source='sound')(
    {'sound': values, 'audio': before[:1]}, None
  )
  np.testing.assert_array_equal(other[..., 0], picture(front_end(), before))
