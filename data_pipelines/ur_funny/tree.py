"""The pickles of UR-FUNNY: the features of its authors, and a tiny copy."""

import logging
import pathlib
import pickle
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.reading import audit
from data_pipelines.reading import feature_sequences
from data_pipelines.reading import manual
from data_pipelines.reading import media
from data_pipelines.reading import pickles

CLASSES = ('not_humorous', 'humorous')
PACKED = 'humor.pkl'
"""MultiBench's file."""

TREE = """\
For the configuration sdk, the features of version 2 (or 1) of the authors:
  data_folds.pkl                train, dev, test -> ids
  humor_label_sdk.pkl           id -> 0 or 1
  language_sdk.pkl              id -> punchline_embedding_indexes, ...
                                (version 1: word_embedding_indexes_sdk.pkl)
  word_embedding_list.pkl       (words, 300)
  openface_features_sdk.pkl     id -> punchline_features (words, 371), ...
  covarep_features_sdk.pkl      id -> punchline_features (words, 81), ...
For the configuration multibench:
  humor.pkl                     train, valid, test -> vision, audio, text,
                                labels, id"""

_FOLDS = {'train': 'train', 'validation': 'dev', 'test': 'test'}
_LANGUAGE = ('language_sdk.pkl', 'word_embedding_indexes_sdk.pkl')
_INDEXES = 'punchline_embedding_indexes'
_FEATURES = 'punchline_features'


class Sdk(NamedTuple):
  """The contents of the authors' six pickles, for the punchlines."""

  words: dict[Hashable, Any]  # id -> indices of its words
  vectors: npt.NDArray[np.float32]  # [words, 300]
  vision: dict[Hashable, Any]  # id -> [words, 371]
  audio: dict[Hashable, Any]  # id -> [words, 81]
  labels: dict[Hashable, Any]  # id -> 0 or 1
  widths: dict[str, int]


def splits(root: pathlib.Path) -> dict[str, dict[str, Hashable]]:
  """Reads the official folds, in which no speaker is in two splits.

  Returns:
    Split -> id as text -> id as it is in the other pickles.

  Raises:
    FileNotFoundError: if the list is missing.
    ValueError: if it is damaged, or an id is listed twice.
  """
  path = manual.file(root, ('data_folds.pkl',), TREE)
  folds = pickles.check_keys(pickles.load(path), _FOLDS.values(), str(path))
  divided: dict[str, dict[str, Hashable]] = {}
  seen: set[str] = set()
  for split, fold in _FOLDS.items():
    divided[split] = {}
    if not isinstance(folds[fold], (list, tuple, np.ndarray)):
      raise ValueError(
        f'{path}: {fold} is of the type {type(folds[fold]).__name__}; expected'
        ' a list of ids.'
      )
    for key in folds[fold]:
      if not isinstance(key, str | bytes | int | np.generic):
        raise ValueError(
          f'{path}: {fold} lists {type(key).__name__}; expected ids, which are'
          ' numbers or text.'
        )
      name = feature_sequences.text(key)
      if name in seen:
        raise ValueError(
          f'{path} lists {name} more than once, the last time in {fold}. Get'
          ' the published list.'
        )
      seen.add(name)
      divided[split][name] = key
  return divided


def read_sdk(root: pathlib.Path) -> Sdk:
  """Reads the authors' pickles one by one; drops contexts to save memory.

  Raises:
    FileNotFoundError: if a pickle is missing.
    ValueError: if one is damaged, or its items differ in the number of
      features.
  """

  def load(*names: str) -> tuple[str, Any]:
    path = manual.file(root, names, TREE)
    return str(path), pickles.load(path)

  def items(*names: str) -> tuple[str, dict[Any, Any]]:
    where, content = load(*names)
    return where, pickles.check_keys(content, (), where)

  def entries(entry: str, *names: str) -> tuple[str, dict[Any, Any]]:
    where, found = items(*names)
    return where, {
      key: item[entry]
      for key, item in found.items()
      if isinstance(item, dict) and entry in item
    }

  _, labels = items('humor_label_sdk.pkl')
  where, content = load('word_embedding_list.pkl')
  try:
    vectors = np.asarray(content, np.float32)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}.') from error
  if vectors.ndim != 2:
    raise ValueError(
      f'{where} has the shape {vectors.shape}; expected (words, 300).'
    )
  _, words = entries(_INDEXES, *_LANGUAGE)
  where, vision = entries(_FEATURES, 'openface_features_sdk.pkl')
  widths = {'vision': feature_sequences.width(vision.values(), where)}
  where, audio = entries(_FEATURES, 'covarep_features_sdk.pkl')
  widths['audio'] = feature_sequences.width(audio.values(), where)
  widths['text'] = vectors.shape[1]
  return Sdk(words, vectors, vision, audio, labels, widths)


def item(sdk: Sdk, clip: str, key: Hashable) -> dict[str, Any]:
  """Makes the element of a punchline: `clip` is its id as text.

  Raises:
    SkipError: if one of its entries is missing or wrong.
  """
  found = {
    'label': sdk.labels.get(key),
    'words': sdk.words.get(key),
    'vision': sdk.vision.get(key),
    'audio': sdk.audio.get(key),
  }
  if lacking := [name for name, value in found.items() if value is None]:
    raise audit.SkipError('missing', f'{clip} has no {", ".join(lacking)}')
  with media.decoding(clip, TypeError):
    sequences = {**found, 'text': _vectors(sdk.vectors, found['words'], clip)}
    return {
      **feature_sequences.element(
        sequences, sdk.widths, aligned=True, where=clip
      ),
      'label': label(found['label'], clip),
      'clip_id': clip,
    }


def _vectors(
  vectors: npt.NDArray[np.float32], words: Any, clip: str
) -> npt.NDArray[np.float32]:
  numbers = np.asarray(words)
  if numbers.size == 0:
    return vectors[:0]
  if numbers.ndim != 1 or numbers.dtype.kind not in 'iu':
    raise audit.SkipError(
      'corrupt', f'{clip}: {_INDEXES} is no list of integers'
    )
  if numbers.min() < 0 or numbers.max() >= len(vectors):
    raise audit.SkipError(
      'corrupt',
      f'{clip} has words {numbers.min()} to {numbers.max()}; the list of'
      f' vectors has {len(vectors)}',
    )
  return vectors[numbers]


def label(value: Any, where: str) -> int:
  """Returns a published label, 0 or 1; SkipError if it is neither."""
  if np.size(value) != 1 or (number := np.ravel(value)[0]) not in (0, 1):
    raise audit.SkipError(
      'label_out_of_range', f'{where} has the label {value}; expected 0 or 1'
    )
  return int(number)


def warn_of_unlisted(
  root: pathlib.Path, sdk: Sdk, divided: dict[str, dict[str, Hashable]]
) -> None:
  """Logs how many labelled items are in no fold, if there are any."""
  listed = {key for keys in divided.values() for key in keys.values()}
  if unlisted := len(sdk.labels.keys() - listed):
    logging.getLogger(__name__).warning(
      'ur_funny in %s: %d labelled items are in no split of data_folds.pkl, and'
      ' are left out.',
      root,
      unlisted,
    )


def write_sample(root: pathlib.Path) -> None:
  """Writes tiny pickles of both configurations, with the same 66 punchlines."""
  random = np.random.RandomState(0)
  directions = {
    name: random.normal(0, 0.5, width).astype(np.float32)
    for name, width in (('vision', 371), ('audio', 81), ('text', 300))
  }
  # Words 1 to 20 occur in rows that are not funny, 21 to 40 in funny ones; word
  # 0 is the padding.
  vectors = random.normal(0, 1, (41, 300)).astype(np.float32)
  vectors[0] = 0
  vectors[1:21] -= directions['text']
  vectors[21:] += directions['text']

  def words(label: int, count: int) -> list[int]:
    return random.randint(1 + 20 * label, 21 + 20 * label, count).tolist()

  def rows(name: str, label: int, count: int) -> npt.NDArray[np.float32]:
    direction = directions[name]
    noise = random.normal(0, 1, (count, len(direction)))
    return ((2 * label - 1) * direction + noise).astype(np.float32)

  folds: dict[str, list[int]] = {}
  labels: dict[int, int] = {}
  language: dict[int, Any] = {}
  features: dict[str, dict[int, Any]] = {'vision': {}, 'audio': {}}
  packed: dict[str, dict[str, Any]] = {}
  for fold, part, ids in (
    ('train', 'train', range(1, 43)),
    ('dev', 'valid', range(43, 55)),
    ('test', 'test', range(55, 67)),
  ):
    folds[fold] = list(ids)
    arrays: dict[str, Any] = {
      name: np.zeros((len(ids), 5, len(direction)), np.float32)
      for name, direction in directions.items()
    }
    for row, key in enumerate(ids):
      labels[key] = funny = int(random.randint(2))
      length = random.randint(3, 6)
      spoken = words(funny, length)
      arrays['text'][row, -length:] = vectors[spoken]
      language[key] = {
        'punchline_embedding_indexes': spoken,
        'context_embedding_indexes': [words(0, 2)],
      }
      for name, items in features.items():
        values = rows(name, funny, length)
        items[key] = {
          'punchline_features': list(values),
          'context_features': [list(rows(name, 0, 2))],
        }
        arrays[name][row, -length:] = values
    packed[part] = {
      **arrays,
      'labels': np.array([[labels[key]] for key in ids]),
      'id': np.array(ids),
    }
  root.mkdir(parents=True, exist_ok=True)
  for name, content in (
    ('data_folds', folds),
    ('humor_label_sdk', labels),
    ('language_sdk', language),
    ('word_embedding_list', list(vectors)),
    ('openface_features_sdk', features['vision']),
    ('covarep_features_sdk', features['audio']),
    ('humor', packed),
  ):
    (root / f'{name}.pkl').write_bytes(pickle.dumps(content))
