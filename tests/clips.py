"""Reads and damages media, for tests of audio-visual data sets."""

import fractions
import io

import av
import numpy as np
import PIL.Image

from data_pipelines import sources
from data_pipelines.samples import _sample


def waveform(path):
  """Samples of a video with mono sound, as int16."""
  with av.open(str(path)) as container:
    blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
  samples = np.concatenate(blocks).astype(np.float64) * 32768
  return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def pictures(path):
  """All frames of a video, [n, height, width, 3]."""
  with av.open(str(path)) as container:
    return np.stack(
      [frame.to_rgb().to_ndarray() for frame in container.decode(video=0)]
    )


def decoded(jpegs):
  """The pictures of JPEG bytes, [n, height, width, 3]."""
  return np.stack([np.asarray(PIL.Image.open(io.BytesIO(x))) for x in jpegs])


def numbers(jpegs, path):
  """Which frames of a video JPEG pictures show: those that differ least."""
  difference = decoded(jpegs)[:, None] - pictures(path)[None].astype(float)
  return np.square(difference).mean((2, 3, 4)).argmin(1).tolist()


def nearest_mean_accuracy(train, test, name):
  """Accuracy in `test` of the class whose mean in `train` is the nearest."""

  def features(element):
    if name == 'frames':
      return decoded(element['frames']).mean((0, 1, 2))
    length = len(element['audio']) // 512 * 512
    blocks = element['audio'][:length].reshape(-1, 512).astype(float)
    return np.log1p(np.abs(np.fft.rfft(blocks)).mean(0))

  x, y = np.stack([features(e) for e in train]), labels(train)
  means = {label: x[y == label].mean(0) for label in np.unique(y)}
  guesses = [
    min(means, key=lambda label: np.square(features(e) - means[label]).sum())
    for e in test
  ]
  return np.mean(guesses == labels(test))


def labels(source):
  return np.array([int(element['label']) for element in source])


def ids(source):
  return [element['clip_id'].item().decode() for element in source]


def opener(name):
  """A function that reads the elements of a split of a data set."""

  def opened(manual_dir, data_dir, split='train'):
    source = sources.open_source(
      name, config=None, split=split, data_dir=data_dir, manual_dir=manual_dir
    )
    return [source[index] for index in range(len(source))]

  return opened


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
  path.write_bytes(b'')


def write_pointer(path):
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1\n')


def write_text(path):
  path.write_text('<html>Video unavailable</html>')


def remove(path):
  path.unlink()


def silence(path):
  """Writes a video without sound."""
  shown = list(pictures(path))
  path.unlink()
  _sample.write_video(path, shown, fractions.Fraction(5))


DAMAGES = {
  'truncated': (truncate, 'corrupt'),
  'empty': (empty, 'corrupt'),
  'pointer': (write_pointer, 'lfs_pointer'),
  'text': (write_text, 'corrupt'),
  'gone': (remove, 'missing'),
  'silent': (silence, 'no_audio'),
}
"""What can happen to a video, and the reason that is counted then."""
