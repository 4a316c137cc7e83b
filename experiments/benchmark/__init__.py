"""Times and memory, measured side by side.

A benchmark is a file here. Its docstring is its `--help`, `OPTIONS` maps names
to `Option`, and `run` takes their values and prints. `__main__` lists its name.
"""

from collections.abc import Collection
from typing import Any, NamedTuple


class UsageError(ValueError):
  """A benchmark cannot use an argument."""


class Option(NamedTuple):
  """An option of the command line."""

  # A list is given with commas, and its entries have the type of the first.
  # True is switched off by `--no` and the name. None means that the option must
  # be given.
  default: Any
  about: str
  least: int = 1  # of a whole number
  choices: Collection[str] = ()  # of a word; none: any


REPEATS = Option(40, 'rounds in which each program is timed once', least=2)
BATCH_SIZE = Option(32, 'rows of a batch')
