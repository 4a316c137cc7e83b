"""On-the-fly gradient modulation with generalisation enhancement (OGM-GE)."""

from typing import Literal

import jax
import optax

import mimo_jax
from experiments.methods import base
from experiments.methods import ogm

SPACE: base.Space = ogm.SPACE


def make(
  task: base.Task,
  *,
  alpha: float = 0.3,
  against: Literal['each', 'weakest'] = 'each',
  min_ndim: int = 2,
  noise: float = 1.0,
) -> base.Method:
  """OGM, and noise of the gradient's own size: `mimo_jax.ogm_ge`.

  `noise` is the noise's standard deviation, relative to that of each tensor's
  gradient; the other arguments are those of `ogm`.

  References:
    X. Peng et al., `Balanced Multimodal Learning via On-the-fly Gradient
    Modulation <https://arxiv.org/abs/2203.15332>`_, CVPR 2022.
  """
  options = {'alpha': alpha, 'against': against, 'min_ndim': min_ndim}
  method = ogm.modulated(task, mimo_jax.ogm_ge, None, noise=noise, **options)

  def init(state: base.TrainState, _: base.Batch) -> base.TrainState:
    # Every run draws its own noise.
    key = jax.random.key_data(state.key)
    opt_state = optax.tree.set(state.opt_state, key=key)
    return state._replace(opt_state=opt_state)

  return method._replace(init=init)
