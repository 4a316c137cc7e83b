"""Texts as bags of words."""

import re
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def words(text: str) -> list[str]:
  """The words of a text in lower case, in order.

  Examples:
    >>> words("A cat, two cats: the cat's.")
    ['a', 'cat', 'two', 'cats', 'the', 'cat', 's']
  """
  return re.findall(r'\w+', text.lower())


def bag(found: Iterable[str], num_features: int) -> npt.NDArray[np.uint8]:
  """Which words there are, [num_features] of 0 and 1: the hashed bag of words.

  A word's place is its CRC-32, modulo `num_features`. So no vocabulary is
  learned from any row, and splits may be drawn anew without making one; words
  that share a place cannot be told apart.

  Examples:
    >>> np.flatnonzero(bag(['compare', 'test'], 1024))
    array([ 93, 524])
  """
  places = [zlib.crc32(word.encode()) % num_features for word in found]
  values = np.zeros(num_features, np.uint8)
  values[places] = 1
  return values
