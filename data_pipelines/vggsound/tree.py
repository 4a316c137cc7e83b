"""The folder of VGGSound: its list of clips, their splits, and a tiny copy."""

import csv
import pathlib

import numpy as np

from data_pipelines.reading import audit
from data_pipelines.reading import builder
from data_pipelines.reading import lists
from data_pipelines.reading import manual
from data_pipelines.reading import media
from data_pipelines.reading import youtube
from data_pipelines.samples import tiny
from data_pipelines.vggsound import labels

PUBLISHED = {'train': 183_730, 'test': 15_446}
"""Clips of the 309 classes; `validation` is carved from `train`."""

TREE = """\
  vggsound.csv                   the official list, no header, rows
                                 <id>,<start>,"<label>",<train or test>
  **/<clip>.mp4                  the videos, in whatever folders, and maybe
  **/<clip>.wav                  the sound of each; with it, instead of a video
  **/<clip>.mp4/*.jpg            one picture a second of each (or **/<clip>/)
A clip is named <id>_<start>, with the 11 characters of a YouTube id and seconds
with leading zeros or without, as 0123456789a_000030. The folders of OGM-GE,
train-videos, test-videos, train-audios and test-audios, are such folders."""

# A class that is not among the authors' 309, but has training rows in some
# versions of the list.
_WITHDRAWN = 'extending ladders'
# Classes in the sample; the name of one has a comma.
_SAMPLED = ('dog barking', 'playing violin, fiddle', 'thunder', 'airplane')


def parts(root: pathlib.Path) -> dict[str, builder.Part]:
  """Lists the clips of each split, whether or not their files exist.

  Raises:
    FileNotFoundError: if the list is missing.
    ValueError: if the list is wrong.
  """
  path = manual.file(root, ('vggsound.csv',), TREE)
  numbers = {name: number for number, name in enumerate(labels.CLASSES)}
  clips: dict[str, list[tuple[str, youtube.Listed | audit.SkipError]]] = {
    part: [] for part in PUBLISHED
  }
  for where, cells in lists.rows(path):
    if len(cells) != 4 or cells[3] not in clips:
      raise ValueError(
        f'{where}: expected <id>,<start>,"<label>",<train or test>, a label'
        f' with commas in quotes, got {cells}.'
      )
    video, start, label, part = cells
    if label not in numbers and label != _WITHDRAWN:
      raise ValueError(
        f'{where}: {label!r} is not one of the 309 labels in'
        ' data_pipelines/vggsound/labels.py.'
      )
    with lists.at(where):
      clip = youtube.clip(f'{video}_{start}')
    item = (
      audit.SkipError('no_class', f'{label!r} is not one of the 309 classes')
      if label == _WITHDRAWN
      else youtube.Listed(clip, numbers[label])
    )
    clips[part].append((clip.name, item))
  empty = [part for part, listed in clips.items() if not listed]
  if empty:
    raise ValueError(f'{path} has no row of {" or ".join(empty)}.')
  return youtube.parts(
    root, **clips, published=PUBLISHED, choose=media.one_each_second
  )


def write_sample(root: pathlib.Path) -> None:
  """Writes a tiny tree: real MP4 files of 4 of the classes, and the list."""
  random = np.random.RandomState(0)
  rows: list[tuple[str, int, str, str]] = []
  for number in range(72):
    place = number % len(_SAMPLED)
    video, start = f'vgg_id-{number:04d}', 5 + number
    # The field's loaders drop clips of fewer than four seconds.
    seconds = random.uniform(3.6, 4.8)
    tiny.write_video(
      root / 'video' / f'{youtube.Clip(video, start).name}.mp4',
      tiny.pictures(place, len(_SAMPLED), round(seconds * 2), random),
      2,
      tiny.sound(place, len(_SAMPLED), seconds, random),
    )
    part = 'train' if number < 56 else 'test'
    rows.append((video, start, _SAMPLED[place], part))
  with (root / 'vggsound.csv').open('w', newline='') as file:
    csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
