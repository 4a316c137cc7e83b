"""Access to the entries of a stored element."""

from typing import Any

import numpy.typing as npt

from data_pipelines import sources


def value(element: sources.Element, name: str) -> npt.NDArray[Any]:
  """Returns one entry of an element; a missing one is named.

  Args:
    element: Name to values.
    name: The entry to return.

  Returns:
    The entry as it is.

  Raises:
    ValueError: if the element has no such entry.

  Examples:
    >>> import numpy as np
    >>> value({'audio': np.array([1, 2])}, 'audio')
    array([1, 2])
    >>> value({'audio': np.array([1, 2])}, 'text')
    Traceback (most recent call last):
    ValueError: The element has no 'text'. It has: audio.
  """
  if name not in element:
    raise ValueError(
      f'The element has no {name!r}. It has: {", ".join(sorted(element))}.'
    )
  return element[name]
