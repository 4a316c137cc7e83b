"""Sequences of features of vision, sound and text, in one form."""

import collections
import functools
import logging
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.reading import audit
from data_pipelines.reading import builder
from data_pipelines.reading import media
from data_pipelines.reading import pickles

with _extra.data_extra():
  import tensorflow_datasets as tfds

MODALITIES = ('vision', 'audio', 'text')
# Our names of the splits, and those of the published pickles.
_SPLITS = {'train': 'train', 'validation': 'valid', 'test': 'test'}
# What MulT and MultiBench call the labels, and what MMSA does.
_LABELS = ('labels', 'regression_labels')
# What follows the video's name in the name of a clip: [3], $_$3 or _3.
_SEGMENT = re.compile(r'(\[[^\[]*\]|\$_\$.*|_\d+)$')


class Packed(NamedTuple):
  """A split of a pickle whose elements are rows of arrays."""

  sequences: dict[str, Any]  # modality -> [n] of [t, d]
  widths: dict[str, int]  # modality -> d
  labels: npt.NDArray[np.float64]  # [n]
  clips: dict[str, int]  # clip -> row
  videos: frozenset[str]


def features(**others: Any) -> dict[str, Any]:
  """Describes a stored element: `MODALITIES`, `clip_id` and the others."""
  sequence = tfds.features.Tensor(
    shape=(None, None), dtype=np.float32, encoding='bytes'
  )
  return {
    **dict.fromkeys(MODALITIES, sequence),
    'clip_id': tfds.features.Text(),
    **others,
  }


def width(sequences: Iterable[Any], where: str) -> int:
  """Returns the number of features in a step, d of all sequences [t, d].

  Args:
    sequences: Empty ones are ignored.
    where: The file, and the place in it, for errors.

  Raises:
    ValueError: if d differs, or no sequence has a step.

  Examples:
    >>> width([np.zeros((4, 3)), [], [[1, 2, 3]]], 'a.pkl')
    3
  """
  try:
    found = collections.Counter(len(each[0]) for each in sequences if len(each))
  except TypeError as error:
    raise ValueError(
      f'{where} should hold sequences of steps of features: {error}.'
    ) from error
  if len(found) != 1:
    raise ValueError(
      f'{where} has sequences of the widths {sorted(found)}, each so often:'
      f' {[found[each] for each in sorted(found)]}; expected one width.'
    )
  return next(iter(found))


def element(
  sequences: Mapping[str, Any],
  widths: Mapping[str, int],
  aligned: bool,
  where: str,
) -> dict[str, npt.NDArray[np.float32]]:
  """Checks the sequences of an element and returns them as float32, unchanged.

  Args:
    sequences: Modality -> [t, d], as published; values may be -inf and NaN.
    widths: Modality -> d.
    aligned: Whether step i is the same word in all modalities.
    where: The file, and the place in it, for the list of skipped elements.

  Raises:
    SkipError: 'empty_text' if all of the text is zero (MultiBench drops such
      elements), 'too_short' if another modality has no step, 'lengths_differ'
      if they are aligned but differ in length, or 'corrupt' if they are not
      numbers of the expected width.
  """
  stored = {}
  for name in MODALITIES:
    with media.decoding(f'{where}, {name}', TypeError):
      stored[name] = np.asarray(sequences[name], np.float32)
  if not stored['text'].any():
    raise audit.SkipError('empty_text', f'{where}: all of the text is zero')
  for name, values in stored.items():
    if values.size == 0:
      raise audit.SkipError('too_short', f'{where}: {name} has no step')
    if values.ndim != 2 or values.shape[1] != widths[name]:
      raise audit.SkipError(
        'corrupt',
        f'{where}: {name} has the shape {values.shape}; expected'
        f' (steps, {widths[name]})',
      )
  lengths = {name: len(values) for name, values in stored.items()}
  if aligned and len(set(lengths.values())) > 1:
    raise audit.SkipError('lengths_differ', f'{where} has the steps {lengths}')
  return stored


def parts(
  path: pathlib.Path,
  aligned: bool,
  entry: str,
  read_label: Callable[[float, str], Any],
  expected: Mapping[str, int] | None = None,
) -> dict[str, builder.Part]:
  """Tells a builder how to read a pickle; see `read_packed`.

  Args:
    path: The pickle.
    aligned: Whether step i is the same word in all modalities.
    entry: The name of the label in an element.
    read_label: (published label, clip) -> label; raises `audit.SkipError`.
    expected: Split -> how many clips it should have, if that is known.
  """
  return {
    split: builder.Part(
      part.clips,
      functools.partial(_example, part, aligned, entry, read_label),
      expected[split] if expected else None,
    )
    for split, part in read_packed(path).items()
  }


def _example(
  part: Packed,
  aligned: bool,
  entry: str,
  read_label: Callable[[float, str], Any],
  clip: str,
  row: int,
) -> dict[str, Any]:
  sequences = {name: part.sequences[name][row] for name in MODALITIES}
  return {
    **element(sequences, part.widths, aligned, clip),
    entry: read_label(part.labels[row], clip),
    'clip_id': clip,
  }


def read_packed(path: pathlib.Path) -> dict[str, Packed]:
  """Reads a pickle {'train': {'vision', 'audio', 'text', 'labels', 'id'}, ...}.

  Arrays are not copied. A warning tells if a video is in more than one split.
  Labels may also be called `regression_labels`.

  Returns:
    'train', 'validation' and 'test' -> the split. A clip is named by its id or,
    if the id has several parts (video, start, end), by `video[start:end]`. A
    name that is repeated within its split gets the suffix `#2` and so on.

  Raises:
    ValueError: if the file is damaged or has another layout.
  """
  content = pickles.check_keys(pickles.load(path), _SPLITS.values(), str(path))
  parts = {
    split: _part(content[published], f'{path}, {published}')
    for split, published in _SPLITS.items()
  }
  for name in MODALITIES:
    if len(found := {part.widths[name] for part in parts.values()}) > 1:
      raise ValueError(
        f'{path}: the splits have {sorted(found)} features of {name}; expected'
        ' the same number in all.'
      )
  _warn_of_leaks(path, parts)
  return parts


def _part(content: Any, where: str) -> Packed:
  content = pickles.check_keys(content, (*MODALITIES, 'id'), where)
  chosen = next((name for name in _LABELS if name in content), None)
  if chosen is None:
    raise ValueError(
      f'{where} has the keys {", ".join(map(str, content))}, but not'
      f' {" or ".join(_LABELS)}.'
    )
  try:
    counts = {name: len(content[name]) for name in (*MODALITIES, chosen, 'id')}
    labels = np.asarray(content[chosen], np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}.') from error
  if len({*counts.values(), labels.size}) > 1 or labels.size == 0:
    raise ValueError(
      f'{where} should have one row and one label for each element; it has the'
      f' rows {counts} and labels of the shape {labels.shape}.'
    )
  names, videos = zip(*map(_clip_and_video, content['id']), strict=True)
  return Packed(
    sequences={name: content[name] for name in MODALITIES},
    widths={
      name: width(content[name], f'{where}, {name}') for name in MODALITIES
    },
    labels=labels.reshape(-1),
    clips={name: row for row, name in enumerate(_distinct(names))},
    videos=frozenset(videos),
  )


def _clip_and_video(row: Any) -> tuple[str, str]:
  """Returns the names of a clip and of its video, from one row of `id`."""
  first, *others = map(text, np.asarray(row, np.object_).reshape(-1).tolist())
  clip = f'{first}[{":".join(others)}]' if others else first
  return clip, _SEGMENT.sub('', first)


def text(value: Any) -> str:
  """Returns an id as text; some files have numbers, some bytes.

  Examples:
    >>> text(b'a_1'), text(np.int64(7))
    ('a_1', '7')
  """
  if isinstance(value, bytes):
    return value.decode('utf-8', 'backslashreplace')
  # A lone surrogate could not be written to any file.
  return str(value).encode('utf-8', 'backslashreplace').decode()


def _distinct(names: Iterable[str]) -> Iterator[str]:
  seen: collections.Counter[str] = collections.Counter()
  for name in names:
    seen[name] += 1
    yield name if seen[name] == 1 else f'{name}#{seen[name]}'


def _warn_of_leaks(path: pathlib.Path, parts: Mapping[str, Packed]) -> None:
  count = collections.Counter(
    video for part in parts.values() for video in part.videos
  )
  shared = sorted(video for video, number in count.items() if number > 1)
  if shared:
    logging.getLogger(__name__).warning(
      '%s: %d videos are in more than one split, the first of them %s.',
      path,
      len(shared),
      shared[0],
    )
