"""Reads the entries of a stored element."""

from typing import Any

import numpy.typing as npt

from data_pipelines import sources


def value(element: sources.Element, name: str) -> npt.NDArray[Any]:
  """Returns one entry of an element; ValueError if it is missing.

  Examples:
    >>> value({'audio': [1, 2]}, 'text')
    Traceback (most recent call last):
    ValueError: The element has no 'text'. It has: audio.
  """
  if name not in element:
    raise ValueError(
      f'The element has no {name!r}. It has: {", ".join(sorted(element))}.'
    )
  return element[name]
