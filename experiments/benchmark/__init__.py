"""Times and memory, measured side by side.

A benchmark is a file here with a docstring for its `--help`, `OPTIONS`, a
mapping from names to `Option`, and `run`, which takes their values and prints;
`__main__` lists its name.
"""

from collections.abc import Collection
from typing import Any, NamedTuple


class UsageError(ValueError):
  """What a benchmark says of arguments that it cannot use."""


class Option(NamedTuple):
  """Something that the command line can set."""

  # A list is given with commas, its entries of the type of the first; True is
  # switched off by `no` and the name; None has to be given.
  default: Any
  about: str
  least: int = 1  # of a whole number
  choices: Collection[str] = ()  # of a word; none: any


REPEATS = Option(40, 'rounds in which each program is timed once', least=2)
BATCH_SIZE = Option(32, 'rows of a batch')
