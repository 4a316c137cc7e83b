"""The pickles of CMU-MOSEI and CMU-MOSI that the field uses, and tiny ones."""

import pathlib
import pickle
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.reading import audit

TREE = """\
One file for each configuration that is prepared, the first of these found:
  mosei            mosei_senti_data.pkl, mosei_raw.pkl or
                   MOSEI/Processed/aligned_50.pkl
  mosei_unaligned  mosei_senti_data_noalign.pkl or
                   MOSEI/Processed/unaligned_50.pkl
  mosi             mosi_data.pkl, mosi_raw.pkl or MOSI/Processed/aligned_50.pkl
  mosi_unaligned   mosi_data_noalign.pkl or MOSI/Processed/unaligned_50.pkl
Each: train, valid, test -> vision, audio, text (n, t, d), id and labels (in
MMSA's files, which are in folders: regression_labels)."""

_MOST = 3.0


class Source(NamedTuple):
  """What a configuration reads."""

  files: tuple[str, ...]
  aligned: bool
  expected: dict[str, int]  # published numbers of clips


_MOSEI = {'train': 16_326, 'validation': 1_871, 'test': 4_659}
_MOSI = {'train': 1_284, 'validation': 229, 'test': 686}

_ALIGNED, _UNALIGNED = 'Processed/aligned_50.pkl', 'Processed/unaligned_50.pkl'

SOURCES = {
  'mosei': Source(
    ('mosei_senti_data.pkl', 'mosei_raw.pkl', f'MOSEI/{_ALIGNED}'), True, _MOSEI
  ),
  'mosei_unaligned': Source(
    ('mosei_senti_data_noalign.pkl', f'MOSEI/{_UNALIGNED}'), False, _MOSEI
  ),
  'mosi': Source(
    ('mosi_data.pkl', 'mosi_raw.pkl', f'MOSI/{_ALIGNED}'), True, _MOSI
  ),
  'mosi_unaligned': Source(
    ('mosi_data_noalign.pkl', f'MOSI/{_UNALIGNED}'), False, _MOSI
  ),
}
"""Configuration -> what it reads."""


def score(value: float, where: str) -> np.float32:
  """Returns a published score; SkipError if it is not from -3 to 3."""
  if not abs(value) <= _MOST:
    raise audit.SkipError(
      'label_out_of_range',
      f'{where} has the score {value}; expected one from -3 to 3',
    )
  return np.float32(value)


def write_sample(root: pathlib.Path) -> None:
  """Writes a tiny pickle of each configuration, of 70 clips."""
  random = np.random.RandomState(0)
  root.mkdir(parents=True, exist_ok=True)
  for name, source in SOURCES.items():
    content = _sample(name.startswith('mosi'), source.aligned, random)
    (root / source.files[0]).write_bytes(pickle.dumps(content))


def _sample(
  is_mosi: bool, aligned: bool, random: np.random.RandomState
) -> dict[str, dict[str, Any]]:
  """Makes a pickle; MOSI's ids are bytes, and their first part names a clip."""
  directions = {
    'vision': random.normal(0, 1, 20 if is_mosi else 35),
    'audio': random.normal(0, 1, 5 if is_mosi else 74),
    'text': random.normal(0, 1, 300),
  }
  lengths = {'vision': 6, 'audio': 6, 'text': 6}
  if not aligned:
    lengths |= {'vision': 12, 'audio': 10}
  scores = np.array([-2.4, -1.4, -1, 0, 0.8, 1.6, 3], np.float32)
  parts: dict[str, dict[str, Any]] = {}
  first = 0  # number of a video
  for part, rows in (('train', 42), ('valid', 14), ('test', 14)):
    chosen = scores[random.permutation(np.arange(rows) % len(scores))]
    ids = []
    for row in range(rows):
      video, clip = f'video{first + row // 5:06d}', row % 5
      start = f'{clip * 6}.25', f'{clip * 6 + 5}.5'
      ids.append((f'{video}_{clip + 1}' if is_mosi else video, *start))
    first += rows // 5 + 1
    arrays: dict[str, Any] = {}
    # Words in each row; the steps to the left of them are padding.
    num_words = random.randint(3, lengths['text'] + 1, rows)
    for name, direction in directions.items():
      steps = lengths[name]
      values = chosen[:, None, None] * direction
      values = values + random.normal(0, 1, (rows, steps, len(direction)))
      if name == 'audio' and not is_mosi:
        values[::10, -1, 0] = -np.inf  # the logarithm of silence
      is_padding = np.arange(steps) < steps - num_words[:, None] * (
        steps // lengths['text']
      )
      values[is_padding] = 0
      arrays[name] = values.astype(np.float32)
    parts[part] = {
      **arrays,
      'labels': chosen[:, None, None],
      'id': np.array(ids, np.bytes_ if is_mosi else np.str_),
    }
  return parts
