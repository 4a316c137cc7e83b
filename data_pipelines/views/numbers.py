"""A view of several stored numbers as one standardised row."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines import sources
from data_pipelines.views import _element


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Some stored numbers as one row: (number - mean) / std for each.

  Attributes:
    columns: Names of the stored numbers.
    mean: The mean of each.
    std: The standard deviation of each, above 0.

  Raises:
    ValueError: if the three differ in length, or a deviation is not above 0.

  Examples:
    >>> view = Numbers(('age', 'weight'), mean=(40, 70), std=(10, 20))
    >>> view({'age': 55.0, 'weight': 60.0}, None)
    array([ 1.5, -0.5], dtype=float32)
  """

  columns: Sequence[str]
  mean: Sequence[float]
  std: Sequence[float]

  def __post_init__(self) -> None:
    if not len(self.columns) == len(self.mean) == len(self.std):
      raise ValueError(
        f'Expected a mean and a std for each of {tuple(self.columns)}, got'
        f' {tuple(self.mean)} and {tuple(self.std)}.'
      )
    if min(self.std, default=1) <= 0:
      raise ValueError(f'Expected std above 0, got {tuple(self.std)}.')

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[np.float32]:
    """Makes a row [columns] from an element; see `View`."""
    del random
    values = np.array([_element.value(element, name) for name in self.columns])
    made = (values.astype(np.float64) - np.asarray(self.mean)) / self.std
    return made.astype(np.float32)
