"""The words of an icon's tags, without those that name a category."""

import re

import numpy as np
import numpy.typing as npt

from data_pipelines import _words
from data_pipelines.icons import archive

NUM_FEATURES = 1024


def stem(word: str) -> str:
  """Returns the singular of a word, in lower case.

  Examples:
    >>> [stem(word) for word in ('Currencies', 'arrows', 'map')]
    ['currency', 'arrow', 'map']
  """
  word = word.lower()
  if word.endswith('ies'):
    return f'{word[:-3]}y'
  return word.removesuffix('s')


NAMES = frozenset(
  {stem(name) for name in archive.CATEGORIES}
  # E-commerce is split at its hyphen; every icon of the category Brand has the
  # tag logo.
  | {'commerce', 'ecommerce', 'logo'}
)
"""Stems of the words that are left out of all icons' tags."""


def words(tags: str) -> list[str]:
  """Returns the distinct words of comma-separated tags, sorted.

  Tags are split at spaces and hyphens. Words that name a category are left out,
  in singular and plural. They are left out of every icon, so that their absence
  tells nothing.

  Examples:
    >>> words('ab-test,Text,arrows,Cut short,cut'), words('')
    (['ab', 'cut', 'short', 'test'], [])
  """
  found = set(filter(None, re.split(r'[\s,-]+', tags.lower())))
  return sorted(word for word in found if stem(word) not in NAMES)


def bag(tags: str) -> npt.NDArray[np.uint8]:
  """Returns the hashed bag of the words of tags: [1024], 1 for each of them."""
  return _words.bag(words(tags), NUM_FEATURES)
