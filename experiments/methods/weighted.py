"""Training on weighted losses of all outputs, by any rule of mimo_jax."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.methods import base

GRID: Mapping[str, Sequence[Any]] = {}


def make(task: base.Task) -> base.Method:
  """The fused and the uni-modal losses, weighed by `config.weighting`.

  MIMO, MGDA, the plain sum, and joint training, too: the sum, with
  `config.model.detach_heads`.

  Args:
    task: what is trained.

  Returns:
    The method: `mimo_jax.balance` of the task's weighting.
  """
  return base.Method(
    model=task.model,
    objectives=task.objectives,
    losses=base.output_losses(task, task.model),
    gradients=task.balance(task.weighting, objectives=task.objectives),
    optimizer=task.optimizer(1),
    is_mean_over_rows=True,
  )
