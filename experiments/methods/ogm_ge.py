"""On-the-fly gradient modulation with generalisation enhancement (OGM-GE)."""

from typing import Literal

import optax

import mimo_jax
from experiments.methods import base
from experiments.methods import common
from experiments.methods import ogm
from mimo_jax import nn

GRID: base.Grid = ogm.GRID


def make(
  task: base.Task,
  *,
  alpha: float = 0.3,
  against: Literal['each', 'weakest'] = 'each',
  min_ndim: int = 2,
  noise: float = 1.0,
) -> base.Method:
  """OGM, and noise of the gradient's own size: `mimo_jax.ogm_ge`.

  Args:
    task: what is trained, on classes, with a fusion that has shares.
    alpha: how much modalities that are ahead are slowed down.
    against: how scores of three and more modalities are compared.
    min_ndim: the number of axes that a modulated tensor has at least.
    noise: standard deviation of the noise, in those of each tensor's gradient.

  References:
    X. Peng et al., `Balanced Multimodal Learning via On-the-fly Gradient
    Modulation <https://arxiv.org/abs/2203.15332>`_, CVPR 2022.
  """
  common.check_classes(task, 'ogm_ge')
  method = ogm.modulated(
    task,
    mimo_jax.ogm_ge(
      nn.encoder_of,
      task.modalities,
      alpha=alpha,
      against=against,
      min_ndim=min_ndim,
      noise=noise,
    ),
  )

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    del batch
    # Every run draws noise of its own.
    opt_state = optax.tree.set(state.opt_state, key=state.key)
    return state._replace(opt_state=opt_state)

  return method._replace(init=init)
