"""Training on weighted losses of all outputs, by any rule of mimo_jax."""

from experiments.methods import base
from experiments.methods import common

SPACE: base.Space = {}


def make(task: base.Task) -> base.Method:
  """The fused and the uni-modal losses, weighed by `config.weighting`.

  These are MIMO, MGDA, the plain sum, and joint training, too.
  """
  return common.on_outputs(task)
