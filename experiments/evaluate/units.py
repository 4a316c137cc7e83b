"""The unit of a regression's targets, and of its predictions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ml_collections import config_dict


class Units(NamedTuple):
  """A model learns (target - mean) / std, so the unit of targets is free.

  For an output, and for an average of outputs, the value in the unit of the
  targets is output * std + mean.
  """

  mean: float = 0.0
  std: float = 1.0

  @classmethod
  def of(cls, config: config_dict.ConfigDict) -> 'Units':
    """Reads `config.data.target_mean` and `target_std`.

    Raises:
      ValueError: if the deviation is not above 0.
    """
    data = config.data
    found = cls(data.get('target_mean', 0.0), data.get('target_std', 1.0))
    if not found.std > 0:
      raise ValueError(
        f'config.data.target_std is {found.std}; expected a number above 0.'
      )
    return found

  def learned(self, target: Any) -> Any:
    """Standardises targets, as the model learns them."""
    return target if self == PLAIN else (target - self.mean) / self.std

  def read(
    self, outputs: Mapping[str, npt.NDArray[Any]]
  ) -> dict[str, npt.NDArray[Any]]:
    """Converts outputs to the unit of the targets, in float64.

    Examples:
      >>> Units(40.0, 12.0).read({'fused': np.array([[0.5]], np.float32)})
      {'fused': array([[46.]])}
    """
    if self == PLAIN:
      return dict(outputs)
    return {
      name: np.asarray(value, np.float64) * self.std + self.mean
      for name, value in outputs.items()
    }


PLAIN = Units()
"""The model learns targets as they are."""
