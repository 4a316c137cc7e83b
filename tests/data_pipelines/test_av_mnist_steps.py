"""The steps that rebuild AV-MNIST, each by an independent computation."""

import numpy as np
import PIL.Image
import pytest

from data_pipelines.av_mnist import rebuild


def test_the_fewest_components_that_hold_the_energy_are_kept(monkeypatch):
  """Four axes have shares of 1/2, 1/4, 3/20 and 1/10, in shuffled columns."""
  scale = np.sqrt([0.15, 0.5, 0.1, 0.25])
  pictures = np.concatenate([np.diag(scale), -np.diag(scale)]) * 40 + 70
  for share in (0.2, 0.25, 0.251, 0.6):
    monkeypatch.setattr(rebuild, 'KEPT_ENERGY', share)
    projection = rebuild.fit(pictures)
    expected = [1] if share <= 0.5 else [1, 3]
    kept = np.flatnonzero(np.abs(projection.components).max(axis=1) > 0.5)
    assert kept.tolist() == expected, share
    np.testing.assert_allclose(projection.mean, 70)


def test_results_do_not_depend_on_the_size_of_blocks(monkeypatch):
  random = np.random.RandomState(3)
  pictures = random.randint(0, 256, (50, 12)).astype(np.uint8)
  whole = rebuild.fit(pictures)(pictures)
  monkeypatch.setattr(rebuild, '_ROWS', 7)
  np.testing.assert_allclose(rebuild.fit(pictures)(pictures), whole, atol=1e-3)


def test_pictures_outside_the_range_of_the_training_split_are_clipped():
  projection = rebuild.fit(np.array([[10.0, 5], [20, 5], [14, 5]]))
  np.testing.assert_allclose(
    projection(np.array([[0.0, 5], [15, 5], [99, 5]]))[:, 0],
    # From the lowest number of all, 5, to the highest, 20.
    [0, 255 * 10 / 15, 255],
    rtol=1e-6,
  )


def test_equal_pictures_have_no_components():
  with pytest.raises(ValueError, match='are equal'):
    rebuild.fit(np.full((4, 9), 7))


def test_the_noise_has_the_stated_level_and_is_white(monkeypatch):
  values = 0.3 * np.sin(np.arange(8000) * 0.4)
  for decibels in (-5.0, 0.0, 12.0):
    monkeypatch.setattr(rebuild, 'NOISE_DECIBELS', decibels)
    noise = rebuild.add_noise(values, np.random.RandomState(2)) - values
    ratio = 10 * np.log10(np.mean(values**2) / np.mean(noise**2))
    assert ratio == pytest.approx(decibels, abs=1e-6)
    # Neighbours are uncorrelated and the four quarters of the band equal.
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05
    power = np.abs(np.fft.rfft(noise)[1:]) ** 2
    quarters = power.reshape(4, -1).sum(axis=1) / power.sum()
    np.testing.assert_allclose(quarters, 0.25, atol=0.02)


def test_recordings_of_a_digit_are_drawn_equally_often():
  names = {0: ['a'], 1: ['b', 'c', 'd']}
  drawn = rebuild.pair([1] * 3000, names, seed=5)
  for name in names[1]:
    assert drawn.count(name) == pytest.approx(1000, abs=100)
  assert drawn == rebuild.pair([1] * 3000, names, seed=5)
  assert drawn != rebuild.pair([1] * 3000, names, seed=6)


def test_a_spectrogram_follows_the_definition_of_its_windows():
  """Each window is computed from the definition; resizing is Pillow's."""
  random = np.random.RandomState(4)
  values = random.normal(size=2000) * np.linspace(0, 1, 2000)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
  spectra = [
    np.abs(np.fft.rfft(window * values[begin : begin + 256])) ** 2
    for begin in range(0, 2000 - 256 + 1, 64)
  ]
  power = np.array(spectra).T
  assert power.shape == (129, 28)
  decibels = np.maximum(10 * np.log10(power / power.max()), -60)
  image = PIL.Image.fromarray((255 * (1 + decibels / 60)).astype(np.float32))
  expected = image.resize((112, 112), PIL.Image.Resampling.BILINEAR)
  found = rebuild.spectrogram(values)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, np.asarray(expected), atol=1e-2)


def test_a_silent_recording_is_black():
  silence = np.zeros(900)
  noisy = rebuild.add_noise(silence, np.random.RandomState(0))
  np.testing.assert_array_equal(
    rebuild.spectrogram(noisy), np.zeros((112, 112))
  )
