"""The methods that the configurations compare, as changes to each of them."""

from typing import Any


def standard() -> dict[str, dict[str, Any]]:
  """Joint training, the plain sum, MGDA, and MIMO mild and strong.

  Joint training learns from the fused loss alone; its uni-modal outputs stand
  on stopped gradients, so that they can be read without disturbing it.

  Returns:
    Name -> changes, for `configuration.with_method`.

  Examples:
    >>> sorted(standard())
    ['joint', 'mgda', 'mimo_1', 'mimo_3', 'sum']
  """
  return {
    'joint': {
      'weighting': {'name': 'sum'},
      'model': {'detach_heads': True},
    },
    'sum': {'weighting': {'name': 'sum'}},
    'mgda': {'weighting': {'name': 'mgda'}},
    'mimo_1': {
      'weighting': {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}
    },
    'mimo_3': {
      'weighting': {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}
    },
  }
