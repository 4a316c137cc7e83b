"""Clips that are named by a YouTube video and a start second."""

import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.reading import audio_visual
from data_pipelines.reading import audit
from data_pipelines.reading import builder
from data_pipelines.reading import manual
from data_pipelines.reading import media
from data_pipelines.reading import sounds
from data_pipelines.reading import splitting
from data_pipelines.reading import videos

# Share of the training videos.
_VALIDATION = 0.1
_ID = '[A-Za-z0-9_-]{11}'
# An id may contain underscores; its length tells where it ends.
_NAME = re.compile(rf'({_ID})_([0-9]{{1,9}})(?:_[0-9]+)?')
# The field's loaders drop clips with this many frames or fewer.
_TOO_FEW = 3


class Clip(NamedTuple):
  """A part of a YouTube video, however files and lists spell its name."""

  video: str
  start: int

  @property
  def name(self) -> str:
    """The name in our spelling: `<id>_<start, 6 digits>`."""
    return f'{self.video}_{self.start:06d}'


class Listed(NamedTuple):
  """A clip and the index of its class."""

  clip: Clip
  label: int


class Media(NamedTuple):
  """Where the files of clips are, in a folder and its subfolders."""

  root: pathlib.Path
  sounds: Mapping[Clip, pathlib.Path]
  videos: Mapping[Clip, pathlib.Path]
  pictures: Mapping[Clip, pathlib.Path]


def check_video(name: str) -> str:
  """Returns the id of a video after checking it: file names are made of it.

  Examples:
    >>> check_video('../../x')
    Traceback (most recent call last):
    ValueError: '../../x' is no YouTube id: 11 letters, digits, _ and -.
  """
  if not re.fullmatch(_ID, name):
    raise ValueError(f'{name!r} is no YouTube id: 11 letters, digits, _ and -.')
  return name


def clip(name: str) -> Clip:
  """Parses the name of a clip, in seconds, with or without leading zeros.

  Raises:
    ValueError: if it is neither `<id>_<start>` nor `<id>_<start>_<end>`.

  Examples:
    >>> clip('-3Mwkq-7TV4_2') == clip('-3Mwkq-7TV4_000002_000012')
    True
    >>> clip('-3Mwkq-7TV4_2').name
    '-3Mwkq-7TV4_000002'
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise ValueError(
      f'{name!r} is no name of a clip; expected the 11 characters of a YouTube'
      ' id, _ and the start in seconds, such as 0123456789a_000030.'
    )
  return Clip(match[1], int(match[2]))


def find(root: pathlib.Path) -> Media:
  """Finds the files of clips by their names, in any subfolder.

  Returns:
    The WAV files, the videos (.mp4), and the folders named after a clip, with
    or without .mp4, which hold its pictures. Of several, the first that has
    content; see `audio_visual.whole_or_first`.
  """
  found: dict[str, dict[Clip, list[pathlib.Path]]]
  found = {'.wav': {}, '.mp4': {}, 'pictures': {}}

  def add(kind: str, stem: str, path: pathlib.Path) -> bool:
    match = _NAME.fullmatch(stem)
    if match:
      of_clip = Clip(match[1], int(match[2]))
      found[kind].setdefault(of_clip, []).append(path)
    return match is not None

  for parent, folders, files in manual.walk(root):
    for name in list(folders):
      stem = name[:-4] if name.lower().endswith('.mp4') else name
      if name.startswith('.') or add('pictures', stem, parent / name):
        folders.remove(name)
    for name in files:
      stem, suffix = os.path.splitext(name)
      if (kind := suffix.lower()) in found:
        add(kind, stem, parent / name)
  return Media(
    root,
    *(
      {one: audio_visual.whole_or_first(paths) for one, paths in known.items()}
      for known in found.values()
    ),
  )


def parts(
  root: pathlib.Path,
  train: Sequence[tuple[str, Listed | audit.SkipError]],
  test: Sequence[tuple[str, Listed | audit.SkipError]],
  published: Mapping[str, int] | None,
  choose: media.Choose,
) -> dict[str, builder.Part]:
  """Divides clips into splits, and tells a builder how to read them.

  A tenth of the videos of `train` become `validation`. No video is in two
  splits: repeated clips, and training clips of videos in `test`, are not read.

  Args:
    root: The folder with the media.
    train: The training list: (name of the clip, what to read or why not).
    test: The test list, likewise.
    published: How many clips the published 'train' and 'test' have, if these
      are the published lists.
    choose: Which frames of a video to keep.
  """

  def video(key: str) -> str:
    return clip(key.partition(' ')[0]).video

  listed = splitting.without_repeats({'train': train, 'test': test}, video)
  divided = splitting.split(
    {key: video(key) for key in listed['train']}, {'validation': _VALIDATION}
  )
  items = {
    split: {key: listed['train'][key] for key in keys}
    for split, keys in divided.items()
  }
  items['test'] = listed['test']
  expected = dict(published or {})
  if published:
    carved = items['validation'].values()
    expected['train'] -= sum(isinstance(each, Listed) for each in carved)
  read = functools.partial(_example, find(root), choose)
  return {
    split: builder.Part(each, read, expected.get(split))
    for split, each in items.items()
  }


def _example(
  found: Media, choose: media.Choose, key: str, item: Listed
) -> dict[str, Any]:
  """Reads a clip: `audio`, `frames`, `label` and `clip_id`.

  The sound is that of the WAV file or else of the video; the frames are those
  of the video or else the pictures. Empty files count as missing.
  """
  del key  # The item has the name in our spelling.
  one = item.clip
  if one not in found.videos and not (
    one in found.sounds and one in found.pictures
  ):
    raise audit.SkipError(
      'missing',
      f'{found.root} has no video {one.name}.mp4, nor both {one.name}.wav and a'
      f' folder {one.name} of pictures',
    )
  if one in found.sounds and (
    one not in found.videos or manual.is_whole(found.sounds[one])
  ):
    audio = sounds.read(found.sounds[one])
  else:
    audio = videos.read_sound(found.videos[one])
  nowhere = found.root / one.name
  frames = audio_visual.read_frames(
    found.videos.get(one, nowhere), found.pictures.get(one, nowhere), choose
  )
  if len(frames) <= _TOO_FEW:
    raise audit.SkipError(
      'too_short', f'{one.name} has {len(frames)} frames; expected 4 or more'
    )
  return {
    'audio': audio,
    'frames': frames,
    'label': item.label,
    'clip_id': one.name,
  }
