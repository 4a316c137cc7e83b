"""Reads and damages data sets of clips, for their tests."""

import csv
import fractions
import io

import av
import numpy as np
import PIL.Image
import pytest

from data_pipelines import sources
from data_pipelines.reading import audit
from data_pipelines.reading import media
from data_pipelines.samples import tiny

SPLITS = ('train', 'validation', 'test')
# Brightness of the frames that `record` writes; decoders are exact within 3.
LEVELS = [20 + 7 * number for number in range(30)]
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n'


def opened(name, manual_dir, data_dir, split='train', config=None):
  """Reads the elements of a data set's split; prepares it if necessary."""
  source = sources.open_source(
    name, config=config, split=split, data_dir=data_dir, manual_dir=manual_dir
  )
  return [source[index] for index in range(len(source))]


def parts(name, root, config=None):
  """Returns the parts of a builder, split -> what to read, unprepared."""
  builder = sources.builder_of(name, config)
  return builder(data_dir=root, config=config).parts(root)


def reasons(items):
  """Returns why each item is left out; '' for items that are not."""
  return [getattr(item, 'reason', '') for item in items.values()]


def table(folder, split):
  """Reads the list of items that were left out of a prepared split."""
  path = folder / f'skipped-{split}.csv'
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def skipped(data_dir, split='train'):
  """Returns key -> reason for the items left out of a prepared split."""
  (path,) = data_dir.rglob(f'skipped-{split}.csv')
  return {row['key']: row['reason'] for row in table(path.parent, split)}


def sine(pitch, seconds, rate, amplitude=0.5):
  time = np.arange(seconds * rate) / rate
  return amplitude * np.sin(2 * np.pi * pitch * time)


def record(folder):
  """Writes videos of 3 s with 10 grey frames a second; MP4s have a 1 kHz tone.

  `fast.mp4` has the packets of `clip.mp4` with the table of contents in front,
  so that it can be opened when its end is lost.
  """
  shown = [np.full((48, 64, 3), level, np.uint8) for level in LEVELS]
  rate = fractions.Fraction(10)
  tone = sine(1000, 3, media.RATE).astype(np.float32)
  tiny.write_video(folder / 'clip.flv', shown, rate)
  tiny.write_video(folder / 'clip.mp4', shown, rate, tone)
  remux(folder / 'clip.mp4', folder / 'fast.mp4', {'movflags': 'faststart'})


def remux(source, target, options=None, title='', cut=0.0):
  """Copies the packets of a video, shown `cut` seconds earlier."""
  with (
    av.open(str(source)) as read,
    av.open(str(target), 'w', options=options) as written,
  ):
    written.metadata['title'] = title
    streams = {
      each: written.add_stream_from_template(each) for each in read.streams
    }
    for packet in read.demux():
      if packet.dts is not None:  # None ends the stream
        earlier = int(cut / packet.time_base)
        packet.pts, packet.dts = packet.pts - earlier, packet.dts - earlier
        packet.stream = streams[packet.stream]
        written.mux(packet)


def reason(function, *arguments):
  """Calls a function that skips an item; returns the reason and the detail."""
  with pytest.raises(audit.SkipError) as caught:
    function(*arguments)
  return caught.value.reason, caught.value.detail


def levels(jpegs):
  """Returns the mean brightness of each picture."""
  return [decoded([jpeg]).mean() for jpeg in jpegs]


def altered(data):
  """Returns bytes of which the one in the middle is changed."""
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def stacked(elements):
  """Returns name -> values of all elements, texts decoded."""
  arrays = {
    name: np.stack([element[name] for element in elements])
    for name in elements[0]
  }
  return {
    name: values.astype(str) if values.dtype == object else values
    for name, values in arrays.items()
  }


def ids(elements):
  return [element['clip_id'].item().decode() for element in elements]


def labels(elements):
  return np.array([int(element['label']) for element in elements])


def waveform(path):
  """Decodes the mono sound of a video to int16, without our readers."""
  with av.open(str(path)) as container:
    blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
  samples = np.concatenate(blocks).astype(np.float64) * 32768
  return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def pictures(path):
  """Decodes all frames of a video, [n, height, width, 3]."""
  with av.open(str(path)) as container:
    return np.stack(
      [frame.to_rgb().to_ndarray() for frame in container.decode(video=0)]
    )


def decoded(jpegs):
  """Decodes JPEGs, [n, height, width, 3]."""
  return np.stack([np.asarray(PIL.Image.open(io.BytesIO(x))) for x in jpegs])


def numbers(jpegs, path):
  """Finds which frames of a video JPEGs show: those that differ least."""
  few = np.s_[:, ::4, ::4]  # some pixels suffice: each has noise of its own
  shown, frames = decoded(jpegs)[few], pictures(path)[few].astype(float)
  difference = shown[:, None] - frames[None]
  return np.square(difference).mean((2, 3, 4)).argmin(1).tolist()


def features(element, name):
  """Makes a vector by which a modality of a sample tells the classes apart."""
  values = element[name]
  if name == 'frames':
    return decoded(values).mean((0, 1, 2))
  if values.ndim == 1 and values.dtype == np.int16:  # sound
    blocks = values[: len(values) // 512 * 512].reshape(-1, 512).astype(float)
    return np.log1p(np.abs(np.fft.rfft(blocks)).mean(0))
  if values.ndim == 2:  # steps of a sequence
    return np.nan_to_num(values, neginf=0).mean(0)
  return values.ravel()


def nearest_mean_accuracy(train, test, name):
  """Returns the test accuracy of a nearest-class-mean classifier."""

  def read(elements):
    if 'score' in elements[0]:
      elements = [each for each in elements if each['score'] != 0]
      y = np.array([each['score'] > 0 for each in elements])
    else:
      y = labels(elements)
    return np.stack([features(each, name) for each in elements]), y

  (x, y), (unseen, expected) = read(train), read(test)
  classes = np.unique(y)
  means = np.stack([x[y == label].mean(0) for label in classes])
  distance = np.square(unseen[:, None] - means).sum(-1)
  return np.mean(classes[distance.argmin(1)] == expected)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_jpeg(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(picture).save(path, quality=95)


def write_pointer(path):
  path.write_bytes(POINTER)
