"""The folder of Kinetics-Sounds: its lists of clips, splits, a tiny copy."""

import logging
import pathlib

import numpy as np

from data_pipelines.reading import builder
from data_pipelines.reading import lists
from data_pipelines.reading import manual
from data_pipelines.reading import media
from data_pipelines.reading import youtube
from data_pipelines.samples import tiny

CLASSES = (
  *('blowing_nose', 'blowing_out_candles', 'bowling', 'chopping_wood'),
  *('dribbling_basketball', 'laughing', 'mowing_lawn', 'playing_accordion'),
  *('playing_bagpipes', 'playing_bass_guitar', 'playing_clarinet'),
  *('playing_drums', 'playing_guitar', 'playing_harmonica'),
  *('playing_keyboard', 'playing_organ', 'playing_piano'),
  *('playing_saxophone', 'playing_trombone', 'playing_trumpet'),
  *('playing_violin', 'playing_xylophone', 'ripping_paper'),
  *('shoveling_snow', 'shuffling_cards', 'singing', 'stomping_grapes'),
  *('tap_dancing', 'tapping_guitar', 'tapping_pen', 'tickling'),
)
"""The classes, in the order in which the field numbers them."""
FIELD = {'train': 14_799, 'test': 2_597}
"""Rows of the field's two lists; `validation` is carved from `train`."""

TREE = """\
  my_train.txt, my_test.txt      the field's lists, 14,799 and 2,597 rows
                                 <clip>,10,<number of the class>, or instead
  train.csv, validate.csv        annotations of Kinetics-400, with the columns
                                 label, youtube_id and time_start (also in a
                                 folder annotations; the second also val.csv)
  **/<clip>.mp4                  the videos, in whatever folders, or instead
  **/<clip>.wav                  the sound of each, and
  **/<clip>/frame_0000N.jpg      ten pictures of each, N from 1 to 10
A clip is named <id>_<start>_<end> or <id>_<start>, with the 11 characters of a
YouTube id and seconds, as 0123456789a_000030_000040 or 0123456789a_30."""

# The names of the lists of training and test.
_FIELD = (('my_train.txt',), ('my_test.txt',))
_KINETICS = (
  ('train.csv', 'annotations/train.csv'),
  (
    *('validate.csv', 'val.csv'),
    *('annotations/validate.csv', 'annotations/val.csv'),
  ),
)
# Classes in the sample.
_SAMPLED = (5, 12, 17, 27)


def parts(root: pathlib.Path) -> dict[str, builder.Part]:
  """Lists the clips of each split, whether or not their files exist.

  The field's lists are used if they exist. Otherwise the 31 classes of Kinetics
  are taken, and its validation part is `test`.

  Raises:
    FileNotFoundError: if one or both of the lists are missing.
    ValueError: if a list is wrong.
  """
  which = 'none'
  for lists_of_one, read, published in (
    (_FIELD, _read_list, FIELD),
    (_KINETICS, _read_annotations, None),
  ):
    found = (manual.first(root, names) for names in lists_of_one)
    paths = [path for path in found if path]
    if len(paths) == 2:
      train, test = map(read, paths)
      return youtube.parts(root, train, test, published, media.ten_half_seconds)
    if paths:
      which = f'only {paths[0].name}'
      break
  raise FileNotFoundError(
    f'{root} has {which} of the two lists of clips, of training and test.'
    f' Expected:\n{TREE}\nFound: {manual.found(root)}'
  )


def _read_list(path: pathlib.Path) -> list[tuple[str, youtube.Listed]]:
  """Reads one of the field's lists."""
  numbers = {str(number): number for number in range(len(CLASSES))}
  listed = []
  for where, cells in lists.rows(path):
    # Check the 10: with columns swapped, all clips would be of class 10.
    if len(cells) != 3 or cells[1] != '10' or cells[2] not in numbers:
      raise ValueError(
        f'{where}: expected <clip>,10,<class>, the class from 0 to'
        f' {len(CLASSES) - 1}, got {cells}.'
      )
    with lists.at(where):
      clip = youtube.clip(cells[0])
    listed.append((clip.name, youtube.Listed(clip, numbers[cells[2]])))
  if not listed:
    raise ValueError(f'{path} has no row; expected <clip>,10,<class> in each.')
  return listed


def _read_annotations(
  path: pathlib.Path,
) -> list[tuple[str, youtube.Listed]]:
  """Reads the rows of the 31 classes in an annotation file of Kinetics."""
  numbers = {name: number for number, name in enumerate(CLASSES)}
  listed = []
  for where, (label, video, start) in lists.records(
    path, ('label', 'youtube_id', 'time_start')
  ):
    number = numbers.get(label.replace(' ', '_'))
    if number is not None:
      with lists.at(where):
        clip = youtube.clip(f'{video}_{start}')
      listed.append((clip.name, youtube.Listed(clip, number)))
  absent = set(range(len(CLASSES))) - {item.label for _, item in listed}
  if len(absent) == len(CLASSES):
    raise ValueError(f'{path} has no row of the classes {", ".join(CLASSES)}.')
  if absent:
    logging.getLogger(__name__).warning(
      '%s has no row of the classes %s.',
      path,
      ', '.join(CLASSES[number] for number in sorted(absent)),
    )
  return listed


def write_sample(root: pathlib.Path) -> None:
  """Writes a tiny tree: real MP4 files of 4 of the classes, and both lists."""
  random = np.random.RandomState(0)
  rows: dict[str, list[str]] = {part: [] for part in FIELD}
  for video in range(72):
    place = video % len(_SAMPLED)
    start = 5 + video
    clip = f'kinetic{video:04d}'
    name = f'{clip}_{start:06d}_{start + 10:06d}'
    seconds = random.uniform(2.6, 3.4)
    # All files are in `train`: the field's test clips, too, come from the
    # training part of Kinetics.
    tiny.write_video(
      root / 'train' / f'{name}.mp4',
      tiny.pictures(place, len(_SAMPLED), round(seconds * 5), random),
      5,
      tiny.sound(place, len(_SAMPLED), seconds, random),
    )
    # The field's lists spell names in two ways.
    part, spelling = (
      ('test', f'{clip}_{start}') if video >= 56 else ('train', name)
    )
    rows[part].append(f'{spelling},10,{_SAMPLED[place]}\n')
  for part, lines in rows.items():
    (root / f'my_{part}.txt').write_text(''.join(lines))
