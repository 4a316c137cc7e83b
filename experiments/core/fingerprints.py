"""Fingerprints of data sets, by which a run knows that its data changed."""

import hashlib
from collections.abc import Mapping

import numpy as np

from data_pipelines import sources

_LOOKED_AT = 16  # rows


def differ(then: str | Mapping[str, str], now: Mapping[str, str]) -> list[str]:
  """The splits whose fingerprints have changed.

  Runs of older versions have a string, of train alone.
  """
  known = {'train': then} if isinstance(then, str) else then
  return [split for split, one in known.items() if now.get(split) != one]


def of(rows: sources.Source) -> str:
  """A digest of the number of rows, and of all entries of some of them."""
  digest = hashlib.sha256(f'{len(rows)}'.encode())
  for place in sorted({i * len(rows) // _LOOKED_AT for i in range(_LOOKED_AT)}):
    for name, value in sorted(rows[place].items()):
      array = np.asarray(value)
      digest.update(f'{name}{array.dtype}{array.shape}'.encode())
      # An array of objects, such as texts, holds pointers alone.
      is_plain = array.dtype.kind != 'O'
      digest.update(array.tobytes() if is_plain else repr(value).encode())
  return digest.hexdigest()[:16]
