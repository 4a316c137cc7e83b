"""The unit of a regression's targets, in which its outputs are read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ml_collections import config_dict


class Units(NamedTuple):
  """A model learns (target - mean) / std, so that no target is too large.

  Of outputs and of what is averaged of them, the value in the target's unit is
  output * std + mean.
  """

  mean: float = 0.0
  std: float = 1.0

  @classmethod
  def of(cls, config: config_dict.ConfigDict) -> 'Units':
    """Those of `config.data.target_mean` and `target_std`.

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
    """What a model learns of targets in their unit."""
    return target if self == PLAIN else (target - self.mean) / self.std

  def read(
    self, outputs: Mapping[str, npt.NDArray[Any]]
  ) -> dict[str, npt.NDArray[Any]]:
    """Outputs in the target's unit, in float64.

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
"""Targets are learned as they are."""
