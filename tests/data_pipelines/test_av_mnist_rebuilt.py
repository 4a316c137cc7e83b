"""Rebuilt AV-MNIST: steps and values by independent computations; damage."""

import functools
import gzip
import re
import shutil
import struct
import tracemalloc

import numpy as np
import PIL.Image
import pytest
import soundfile

from data_pipelines.av_mnist import digits
from data_pipelines.av_mnist import rebuild
from tests import clips

COUNTS = {'train': 220, 'validation': 20, 'test': 60}
INDICES = {
  'train': range(10, 50),
  'validation': range(5, 10),
  'test': range(5),
}

NAME = 'av_mnist'

opened = functools.partial(clips.opened, NAME, config='rebuilt')


@pytest.fixture(name='stored')
def stored_arrays(stored):
  """Split -> name -> values of all elements, texts decoded."""
  return {
    split: clips.stacked(stored(NAME, split, 'rebuilt')) for split in COUNTS
  }


def raw(sample, part, kind):
  """Reads the values of an MNIST file as its page describes."""
  (path,) = (sample / 'mnist').glob(f'{part}-{kind}-*')
  data = gzip.decompress(path.read_bytes())
  rank = data[3]
  shape = struct.unpack(f'>{rank}I', data[4 : 4 + 4 * rank])
  return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


# Steps.


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


# Stored values.


def test_labels_and_rows_are_those_of_mnist(sample, stored):
  train = raw(sample, 'train', 'labels')
  for split, labels in (
    ('train', train[:220]),
    ('validation', train[220:]),
    ('test', raw(sample, 't10k', 'labels')),
  ):
    np.testing.assert_array_equal(stored[split]['label'], labels)
    first = 220 if split == 'validation' else 0
    np.testing.assert_array_equal(
      stored[split]['row'], np.arange(first, first + COUNTS[split])
    )
    assert stored[split]['label'].dtype == np.int64
    assert stored[split]['image'].dtype == np.float32
    assert stored[split]['image'].shape[1:] == (28, 28, 1)
    assert stored[split]['audio'].dtype == np.float32
    assert stored[split]['audio'].shape[1:] == (112, 112, 1)


def test_pictures_keep_a_quarter_of_the_energy_of_the_training_split(
  sample, stored
):
  """Compared with an SVD of only the 220 training rows."""
  pictures = raw(sample, 'train', 'images').reshape(-1, 784).astype(float)
  mean = pictures[:220].mean(axis=0)
  _, values, rows = np.linalg.svd(pictures[:220] - mean, full_matrices=False)
  energy = np.cumsum(values**2) / np.sum(values**2)
  count = next(k for k in range(1, 220) if energy[k - 1] >= 0.25)
  assert 1 < count < 9  # some of the directions that tell digits apart
  rest = mean + (pictures - mean) @ rows[:count].T @ rows[:count]
  low, high = rest[:220].min(), rest[:220].max()
  expected = (255 * (rest - low) / (high - low)).clip(0, 255)
  images = [stored[split]['image'] for split in ('train', 'validation')]
  images = np.concatenate(images).reshape(-1, 784)
  np.testing.assert_allclose(images, expected, atol=1e-3)
  assert (images[:220].min(), images[:220].max()) == (0, 255)


def test_recordings_say_the_digits_of_their_pictures(sample, stored):
  for split, arrays in stored.items():
    for name, label in zip(arrays['recording'], arrays['label'], strict=True):
      digit, _, index = name.split('_')
      assert (sample / 'recordings' / f'{name}.wav').exists()
      assert int(digit) == label
      assert int(index) in INDICES[split]


def test_spectrograms_are_those_of_the_recordings_with_noise(sample, stored):
  """The loudest frequency of each is that of the recording without noise."""
  arrays = stored['train']
  for row in range(0, 220, 11):
    path = sample / 'recordings' / f'{arrays["recording"][row]}.wav'
    values, rate = soundfile.read(path)
    spectrum = np.abs(np.fft.rfft(values))
    pitch = spectrum.argmax() / len(values) * rate
    loudest = arrays['audio'][row, ..., 0].mean(axis=1).argmax()
    # Row 111.5 would be 4,000 Hz; a window tells 31 Hz apart.
    assert (loudest + 0.5) * 4000 / 112 == pytest.approx(pitch, abs=60)


def test_a_recording_has_different_noise_for_each_picture(stored):
  arrays = stored['train']
  names, counts = np.unique(arrays['recording'], return_counts=True)
  assert counts.max() > 1
  one, other = np.flatnonzero(arrays['recording'] == names[counts.argmax()])[:2]
  assert not np.array_equal(arrays['audio'][one], arrays['audio'][other])


def test_a_second_preparation_gives_equal_values(small_av_mnist, tmp_path):
  first, again = (
    clips.stacked(opened(small_av_mnist, tmp_path / at)) for at in 'ab'
  )
  assert again.keys() == first.keys()
  for name, values in again.items():
    assert values.tobytes() == first[name].tobytes()
  # Both configurations prepare from one folder.
  published = clips.opened(NAME, small_av_mnist, tmp_path / 'a')
  assert published[0].keys() == again.keys() - {'recording'}


# Trees in other spellings, and broken ones.


@pytest.mark.parametrize('spelling', ['unpacked', 'dotted', 'mislabelled'])
def test_other_spellings_of_the_files_are_read(broken, spelling):
  expected = digits.read(broken, 'test')
  for path in list((broken / 'mnist').iterdir()):
    name = path.name  # a browser leaves it when it unpacks
    if spelling != 'mislabelled':
      name = name.removesuffix('.gz')
    if spelling == 'dotted':
      name = re.sub(r'-idx(\d)', r'.idx\1', name)
    data = gzip.decompress(path.read_bytes())
    path.unlink()
    path.with_name(name).write_bytes(data)
  for values, wanted in zip(digits.read(broken, 'test'), expected, strict=True):
    np.testing.assert_array_equal(values, wanted)


def test_other_places_of_the_files_are_read(broken):
  for path in list((broken / 'mnist').iterdir()):
    path.rename(broken / path.name)
  (broken / 'mnist').rmdir()
  (broken / 'free-spoken-digit-dataset').mkdir()
  expected = len(digits.recordings(broken)['train'][3])
  (broken / 'recordings').rename(
    broken / 'free-spoken-digit-dataset' / 'recordings'
  )
  assert len(digits.read(broken, 'train').image) == 24
  assert len(digits.recordings(broken)['train'][3]) == expected == 12


def test_hidden_files_are_no_recordings(broken):
  (broken / 'recordings' / '._3_george_0.wav').write_bytes(b'x')
  (broken / 'recordings' / 'LICENSE').write_text('x')
  listed = digits.recordings(broken)
  assert sum(len(p) for each in listed.values() for p in each.values()) == 200


def test_without_a_folder_of_recordings_the_error_shows_what_was_found(broken):
  (broken / 'recordings').rename(broken / 'wavs')
  with pytest.raises(FileNotFoundError, match='no folder recordings') as caught:
    digits.recordings(broken)
  assert 'mnist/t10k-images-idx3-ubyte.gz' in str(caught.value)


def unpacked(change):
  """Damages the contents of a gzip file."""
  return lambda data: gzip.compress(change(gzip.decompress(data)))


DAMAGES = [
  (lambda data: data[:-9], 'truncated or damaged'),
  (clips.altered, 'truncated or damaged'),
  (unpacked(lambda data: data[:-1]), 'values; expected'),
  (unpacked(lambda data: data + b'\0'), 'values; expected'),
  (
    unpacked(lambda data: b'\0\0\x0d' + data[3:]),
    r'\[0, 0, 13, .\]; expected \[0, 0, 8, .\]',
  ),
  (unpacked(lambda data: data[:6]), 'begins with'),
  (
    unpacked(lambda data: data[:4] + b'\xff' * 4 + data[8:]),
    r'shape \(4294967295.*up to 1,000,000',
  ),
  (lambda _: b'', r'bytes \[\]'),
  (lambda _: b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'),
]


def test_errors_name_damaged_files_of_mnist(broken):
  for kind in ('images', 'labels'):
    (path,) = (broken / 'mnist').glob(f'train-{kind}-*')
    whole = path.read_bytes()
    for damage, message in DAMAGES:
      path.write_bytes(damage(whole))
      where = f'{path}.*{message}'
      with pytest.raises(ValueError, match=where):
        digits.read(broken, 'train')
    path.write_bytes(whole)


def test_no_more_is_unpacked_than_the_header_says(broken):
  """A gzip file of one megabyte has 240 labels, then 256 MB of zeros."""
  path = broken / 'mnist' / 'train-labels-idx1-ubyte.gz'
  header = b'\0\0\x08\x01' + (240).to_bytes(4, 'big')
  with gzip.open(path, 'wb', compresslevel=1) as file:
    file.write(header)
    for _ in range(256):
      file.write(bytes(2**20))
  tracemalloc.start()
  try:
    message = 'more than 240 values'
    with pytest.raises(ValueError, match=message):
      digits.read(broken, 'train')
    assert tracemalloc.get_traced_memory()[1] < 2**24
  finally:
    tracemalloc.stop()


def test_pictures_and_labels_of_two_parts_are_refused(broken):
  folder = broken / 'mnist'
  (folder / 't10k-labels-idx1-ubyte.gz').replace(
    folder / 'train-labels-idx1-ubyte.gz'
  )
  message = r'\(24, 28, 28\); expected \(5, 28, 28'
  with pytest.raises(ValueError, match=message):
    digits.read(broken, 'train')


def test_labels_that_are_no_digits_are_refused(broken):
  path = broken / 'mnist' / 'train-labels-idx1-ubyte.gz'
  data = bytearray(gzip.decompress(path.read_bytes()))
  data[8 + 3] = 10
  data[8 + 7] = 255
  path.write_bytes(gzip.compress(bytes(data)))
  message = '2 labels.* 10 in row 3'
  with pytest.raises(ValueError, match=message):
    digits.read(broken, 'train')


def test_a_recording_with_another_form_of_name_is_refused(broken):
  before = broken / 'recordings' / '1_george_11.wav'
  for name in ('12_george_3', '1_george', 'x_george_1', '1-a-2'):
    after = before.rename(broken / 'recordings' / f'{name}.wav')
    message = f'{name}.* is no recording .*7_jackson_32'
    with pytest.raises(ValueError, match=message):
      digits.recordings(broken)
    after.rename(before)


def test_a_split_without_a_digit_is_refused(broken):
  for path in (broken / 'recordings').glob('4_*_[56].wav'):
    path.unlink()
  message = r'recording of \[4\] for validation'
  with pytest.raises(ValueError, match=message):
    digits.recordings(broken)


def test_a_warning_tells_of_fewer_recordings_than_published(broken, caplog):
  digits.recordings(broken)
  assert '200 recordings; the published data set has 3000' in caplog.text


def test_pictures_without_a_readable_recording_are_counted(
  sample, stored, tmp_path, caplog
):
  """All recordings of one speaker are damaged, in two ways."""
  broken = shutil.copytree(sample, tmp_path / 'broken')
  for path in (broken / 'recordings').glob('*_george_*.wav'):
    if int(path.stem.split('_')[2]) % 2:
      soundfile.write(path, np.full(255, 0.1), 8000, subtype='PCM_16')
    else:
      path.write_bytes(path.read_bytes()[:-100])
  left = clips.stacked(opened(broken, tmp_path / 'data'))
  (prepared,) = (tmp_path / 'data' / NAME / 'rebuilt').iterdir()
  rows = clips.table(prepared, 'train')
  names = stored['train']['recording']
  expected = {
    f'row {row}': 'too_short' if int(name.split('_')[2]) % 2 else 'corrupt'
    for row, name in enumerate(names)
    if 'george' in name
  }
  assert {each['key']: each['reason'] for each in rows} == expected
  assert {'too_short', 'corrupt'} == set(expected.values())
  assert 'george' in rows[0]['detail']
  # The other rows do not change: damage moves no other picture.
  kept = np.array(['george' not in name for name in names])
  for name, values in stored['train'].items():
    np.testing.assert_array_equal(left[name], values[kept])
  assert f'{sum(kept)} items; the published one has 55000' in caplog.text
