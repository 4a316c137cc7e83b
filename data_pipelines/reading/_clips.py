"""Clips that are named by a YouTube video and the second where they begin."""

import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.reading import _audio_visual
from data_pipelines.reading import _audit
from data_pipelines.reading import _media
from data_pipelines.reading import _repeats
from data_pipelines.reading import _splits

# Of the videos in the training part.
_VALIDATION = 0.1
# A YouTube id may have underscores itself; its length tells where it ends.
_NAME = re.compile(r'([A-Za-z0-9_-]{11})_(\d+)(?:_\d+)?')
# The field's loaders drop clips with no more frames than these.
_TOO_FEW = 3


class Clip(NamedTuple):
  """A part of a YouTube video; files and lists spell its name differently."""

  video: str
  start: int

  @property
  def name(self) -> str:
    """The one name that we store: `<id>_<start, 6 digits>`."""
    return f'{self.video}_{self.start:06d}'


class Listed(NamedTuple):
  """A clip and the number of its class."""

  clip: Clip
  label: int


Items = dict[str, Listed | _audit.SkipError]


class Media(NamedTuple):
  """Where the files of clips lie, in a folder and all folders below it."""

  root: pathlib.Path
  sounds: Mapping[Clip, pathlib.Path]
  videos: Mapping[Clip, pathlib.Path]
  pictures: Mapping[Clip, pathlib.Path]


def clip(name: str) -> Clip:
  """Reads the name of a clip.

  Args:
    name: `<id>_<start>` or `<id>_<start>_<end>`, the seconds with leading
      zeros or without.

  Returns:
    The clip.

  Raises:
    ValueError: if it is not such a name.

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
      ' id, _ and the second of the start, as 0123456789a_000030.'
    )
  return Clip(match[1], int(match[2]))


def find(root: pathlib.Path) -> Media:
  """Finds the files of clips by their names, in whatever folder they lie.

  Args:
    root: where to look: there and in all folders below.

  Returns:
    The WAV files, the videos (.mp4), and the folders that are named as a clip,
    with .mp4 at the end or without, which hold its pictures. Of two for one
    clip, the first in the order of names.
  """
  sounds: dict[Clip, pathlib.Path] = {}
  videos: dict[Clip, pathlib.Path] = {}
  pictures: dict[Clip, pathlib.Path] = {}
  by_suffix = {'.wav': sounds, '.mp4': videos}
  # Media often lie on another disk, behind a link.
  for parent, folders, files in os.walk(root, followlinks=True):
    below = []
    for name in sorted(folders):
      match = _NAME.fullmatch(name.removesuffix('.mp4'))
      if match:
        found = Clip(match[1], int(match[2]))
        pictures.setdefault(found, pathlib.Path(parent, name))
      elif not name.startswith('.'):
        below.append(name)
    folders[:] = below
    for name in sorted(files):
      stem, suffix = os.path.splitext(name)
      match = _NAME.fullmatch(stem)
      if match and suffix in by_suffix:
        found = Clip(match[1], int(match[2]))
        by_suffix[suffix].setdefault(found, pathlib.Path(parent, name))
  return Media(root, sounds, videos, pictures)


def splits(
  train: Sequence[tuple[str, Listed | _audit.SkipError]],
  test: Sequence[tuple[str, Listed | _audit.SkipError]],
) -> dict[str, Items]:
  """Carves `validation` from the training clips, and no video is in two splits.

  Args:
    train: (name of the clip, what to read or why not) of the training list.
    test: the same of the test list.

  Returns:
    Split -> key -> what to read, or why not. A tenth of the videos of `train`
    is `validation`; training clips of videos that are in `test`, and repeated
    ones, are among those not to read.
  """

  def video(key: str) -> str:
    return clip(key.partition(' ')[0]).video

  parts = _repeats.without_repeats({'train': train, 'test': test}, video)
  divided = _splits.split(
    {key: video(key) for key in parts['train']}, {'validation': _VALIDATION}
  )
  return {
    **{
      part: {key: parts['train'][key] for key in keys}
      for part, keys in divided.items()
    },
    'test': parts['test'],
  }


def expected(
  parts: Mapping[str, Items], train: int, test: int
) -> dict[str, int | None]:
  """How many clips each split should have.

  Args:
    parts: what `splits` returned.
    train: clips of the published training list, `validation` among them.
    test: clips of the published test list.

  Returns:
    Split -> number, None for `validation`.
  """
  validation = sum(
    isinstance(item, Listed) for item in parts['validation'].values()
  )
  return {'train': train - validation, 'validation': None, 'test': test}


def example(
  media: Media,
  item: Listed | _audit.SkipError,
  choose: Callable[[int, float], Sequence[int]],
) -> dict[str, Any]:
  """Reads one clip.

  Args:
    media: where the files are.
    item: what to read, or why not.
    choose: which frames of a video to keep, see `_media.read_frames`.

  Returns:
    `audio` of the WAV file or, without one, of the video; `frames` of the
    video or, without one, the pictures; `label` and `clip_id`.

  Raises:
    SkipError: `item`, if it is one; or if a file is missing or damaged, or
      there is no sample or no more than three frames.
  """
  if isinstance(item, _audit.SkipError):
    raise item
  one = item.clip
  if one not in media.videos and not (
    one in media.sounds and one in media.pictures
  ):
    raise _audit.SkipError(
      'missing',
      f'{media.root} has no video {one.name}.mp4, nor both {one.name}.wav and a'
      f' folder {one.name} of pictures',
    )
  if one in media.sounds:
    audio = _media.read_wav(media.sounds[one])
  else:
    audio = _media.read_sound(media.videos[one])
  nowhere = media.root / one.name
  frames = _audio_visual.read_frames(
    media.videos.get(one, nowhere), media.pictures.get(one, nowhere), choose
  )
  if len(frames) <= _TOO_FEW:
    raise _audit.SkipError(
      'too_short', f'{one.name} has {len(frames)} frames; expected 4 or more'
    )
  return {
    'audio': audio,
    'frames': frames,
    'label': item.label,
    'clip_id': one.name,
  }
