"""The words of an icon's tags, without those that name a category."""

import re

import numpy as np
import numpy.typing as npt

from data_pipelines import _words
from data_pipelines.icons import archive

NUM_FEATURES = 1024


def stem(word: str) -> str:
  """A word without its plural.

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
  # E-commerce falls apart; every icon of the category Brand is a logo.
  | {'commerce', 'ecommerce', 'logo'}
)
"""Stems of the words that are left out, of all icons."""


def words(tags: str) -> list[str]:
  """The words of tags separated by commas, sorted, each once.

  Tags fall apart at spaces and hyphens. A word that names a category is left
  out, in singular and plural, and of every icon: its absence says nothing.

  Examples:
    >>> words('ab-test,Text,arrows,compare,test')
    ['ab', 'compare', 'test']
  """
  found = set(filter(None, re.split(r'[\s,-]+', tags.lower())))
  return sorted(word for word in found if stem(word) not in NAMES)


def bag(found: list[str]) -> npt.NDArray[np.uint8]:
  """Which words there are, [1024] of 0 and 1: the hashed bag of words."""
  return _words.bag(found, NUM_FEATURES)
