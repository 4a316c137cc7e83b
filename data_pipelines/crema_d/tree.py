"""The folder of CREMA-D: its clips, their splits, and a tiny copy of it."""

import collections
import csv
import pathlib
from typing import NamedTuple

import numpy as np

from data_pipelines.reading import lists
from data_pipelines.reading import manual
from data_pipelines.reading import splitting
from data_pipelines.samples import tiny

EMOTIONS = ('NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG')
"""The classes, in the order in which the field numbers them."""
SENTENCES = (
  *('DFA', 'IEO', 'IOM', 'ITH', 'ITS', 'IWL'),
  *('IWW', 'MTI', 'TAI', 'TIE', 'TSI', 'WSI'),
)
LEVELS = ('LO', 'MD', 'HI', 'XX')
FIELD = {'train': 6_698, 'test': 744}
"""Rows of the field's two lists; `validation` is carved from `train`."""

TREE = """\
  AudioWAV/<clip>.wav            7,442 files (the folder may be called Audio)
  VideoFlash/<clip>.flv          7,442 files, or instead
  Image-01-FPS/<clip>/*.jpg      one frame a second of each
  train.csv, test.csv            optional: the field's lists, 6,698 and 744
                                 rows clip,EMOTION (also in a folder CREMAD)
  SentenceFilenames.csv          optional: the names of all clips
A clip is named <actor>_<sentence>_<emotion>_<level>, as 1001_DFA_ANG_XX."""

# With this salt, the 91 actors are divided into 71, 9 and 11.
_SALT = 'crema_d'


class Clip(NamedTuple):
  """The parts of a clip's name."""

  actor: str
  sentence: str
  emotion: str
  level: str

  @property
  def label(self) -> int:
    """The number of the emotion."""
    return EMOTIONS.index(self.emotion)


def clip(name: str) -> Clip:
  """Parses the name of a clip: of its file, without suffix.

  The level X counts as XX, because one file was published as `1040_ITH_SAD_X`
  for some years.

  Raises:
    ValueError: if it is not the name of a clip.

  Examples:
    >>> clip('1001_DFA_ANG_XX')
    Clip(actor='1001', sentence='DFA', emotion='ANG', level='XX')
  """
  parts = name.split('_')
  if parts[3:] == ['X']:
    parts[3] = 'XX'
  known = SENTENCES, EMOTIONS, LEVELS
  if (
    len(parts) != 4
    or not (parts[0].isdigit() and len(parts[0]) == 4)
    or any(part not in of for part, of in zip(parts[1:], known, strict=True))
  ):
    raise ValueError(
      f'{name!r} is no name of a clip of CREMA-D; expected'
      ' <actor>_<sentence>_<emotion>_<level>, as 1001_DFA_ANG_XX.'
    )
  return Clip(*parts)


def splits(
  root: pathlib.Path, by_actor: bool
) -> tuple[dict[str, list[str]], dict[str, int | None]]:
  """Lists the clips of each split.

  Args:
    root: The folder that has the tree.
    by_actor: Whether no actor may be in two splits. If False, the field's lists
      are used if both exist; without them, splits are by actor, too. In all
      cases `validation` is the same tenth of the actors, taken from the
      training part.

  Returns:
    Split -> sorted names of clips, whether or not their files exist; and split
    -> the published number of clips, or None if there is none.

  Raises:
    FileNotFoundError: if one list exists without the other, or there is no
      clip.
    ValueError: if a list is wrong.
  """
  paths = (
    manual.first(root, (f'{part}.csv', f'CREMAD/{part}.csv')) for part in FIELD
  )
  found = [path for path in paths if path]
  if by_actor or not found:
    divided = _by_actor(_all_names(root), 'validation', 'test')
    return divided, dict.fromkeys(divided)
  if len(found) == 1:
    raise FileNotFoundError(
      f'{root} has {found[0].name} but not the other of the lists train.csv and'
      f' test.csv. Give both or none. Expected:\n{TREE}'
    )
  train, test = (_read_list(path) for path in found)
  both = sorted(set(train) & set(test))
  if both:
    raise ValueError(
      f'{len(both)} clips are in both train.csv and test.csv in {root}, the'
      f' first of them {both[0]}.'
    )
  divided = _by_actor(sorted(train), 'validation')
  # The 6,698 training clips of the list include `validation`.
  expected: dict[str, int | None] = {
    'train': FIELD['train'] - len(divided['validation']),
    'validation': None,
    'test': FIELD['test'],
  }
  return {**divided, 'test': sorted(test)}, expected


def _by_actor(names: list[str], *parts: str) -> dict[str, list[str]]:
  """Divides clips; each part gets a tenth of the actors, and train the rest."""
  actors = {name: clip(name).actor for name in names}
  return splitting.split(actors, dict.fromkeys(parts, 0.1), _SALT)


def _read_list(path: pathlib.Path) -> list[str]:
  """Reads names from a list without header; classes must match the names."""
  names = []
  for where, row in lists.rows(path):
    if len(row) != 2 or row[1] not in EMOTIONS:
      raise ValueError(
        f'{where}: expected a clip and one of {", ".join(EMOTIONS)} separated'
        f' by a comma, got {row}.'
      )
    name, emotion = row
    with lists.at(where):
      named = clip(name).emotion
    if named != emotion:
      raise ValueError(
        f'{where}: {name} is listed as {emotion}, but its name says {named}.'
      )
    names.append(_renamed(name))
  if not names:
    raise ValueError(f'{path} has no row; expected clip,EMOTION in each line.')
  name, count = collections.Counter(names).most_common(1)[0]
  if count > 1:
    raise ValueError(f'{path} lists {name} {count} times; expected once.')
  return names


def _renamed(name: str) -> str:
  """Returns a clip's present name, so that it is the same in all copies."""
  return f'{name}X' if name.endswith('_X') else name


def _all_names(root: pathlib.Path) -> list[str]:
  """Returns the names in the list of clips or, without it, of all files."""
  path = root / 'SentenceFilenames.csv'
  if path.is_file():
    names = set()
    for where, (name,) in lists.records(path, ['Filename']):
      with lists.at(where):
        clip(name)
      names.add(_renamed(name))
  else:
    names = {
      _renamed(entry.name if entry.is_dir() else entry.stem)
      for folder in ('AudioWAV', 'Audio', 'VideoFlash', 'Image-01-FPS')
      if (root / folder).is_dir()
      for entry in (root / folder).iterdir()
      if entry.suffix.lower() in ('.wav', '.flv') or entry.is_dir()
      if not entry.name.startswith('.')
    }
  if not names:
    raise FileNotFoundError(
      f'{root} has no clip. Expected:\n{TREE}\nFound: {manual.found(root)}'
    )
  return sorted(names)


def write_sample(root: pathlib.Path) -> None:
  """Writes a tiny tree: real WAV and FLV files of 10 actors, and both lists."""
  random = np.random.RandomState(0)
  names: dict[str, list[str]] = {part: [] for part in FIELD}
  # By their hash, 1020 and 1022 are actors of `test`, 1027 of `validation`.
  for actor in range(1020, 1030):
    for label, emotion in enumerate(EMOTIONS):
      for sentence in SENTENCES[:2]:
        name = f'{actor}_{sentence}_{emotion}_XX'
        seconds = random.uniform(1.3, 2.5)
        tiny.write_wav(
          root / 'AudioWAV' / f'{name}.wav',
          tiny.sound(label, len(EMOTIONS), seconds, random),
        )
        tiny.write_video(
          root / 'VideoFlash' / f'{name}.flv',
          tiny.pictures(label, len(EMOTIONS), round(seconds * 10), random),
          10,
        )
        # As in the field's lists, every actor is in both.
        part = 'test' if sentence == SENTENCES[actor % 2] else 'train'
        names[part].append(name)
  for part, listed in names.items():
    with (root / f'{part}.csv').open('w', newline='') as file:
      csv.writer(file).writerows((name, clip(name).emotion) for name in listed)
