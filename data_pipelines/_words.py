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
  """The hashed bag of words: [num_features], 1 for each word that occurs.

  The index of a word is its CRC-32 modulo `num_features`. No vocabulary is
  learned from any row, so splits can be redrawn without building one. Words
  with the same index cannot be told apart.

  Examples:
    >>> np.flatnonzero(bag(['compare', 'test'], 1024))
    array([ 93, 524])
  """
  places = [zlib.crc32(word.encode()) % num_features for word in found]
  values = np.zeros(num_features, np.uint8)
  values[places] = 1
  return values
