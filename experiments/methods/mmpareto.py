"""Innocent uni-modal assistance (MMPareto)."""

from typing import Literal

import mimo_jax
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import encoders
from mimo_jax import nn

SPACE: base.Space = {'gamma': {'low': 1.0, 'high': 2.0}}


def make(
  task: base.Task,
  *,
  gamma: float = 1.5,
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """Combines each encoder's fused and uni-modal gradient without conflict.

  It is `mimo_jax.mmpareto`, on the losses of the fused output and of each
  modality's own head. The heads are the model's `auxiliary` ones, whatever the
  configuration says, as in the paper.

  Args:
    task: what is trained.
    gamma: the strength of the combined gradient.
    released: 'balance_benchmark': both gradients of an encoder are that of the
      sum of all losses, so that it learns from this sum's gradient, times 2γ.

  References:
    Y. Wei and D. Hu, `MMPareto: Boosting Multimodal Learning with Innocent
    Unimodal Assistance <https://arxiv.org/abs/2405.17730>`_, ICML 2024.
  """
  checks.unweighted(
    task, 'mmpareto', 'it solves for weights of its own, of each encoder'
  )
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  if released:
    factors = {name: 2 * gamma for name in task.modalities}
    return common.on_outputs(
      task,
      model=model,
      observe=lambda *_: {'factors': factors},
      after=encoders.scaled(),
    )
  gradients = mimo_jax.mmpareto(
    nn.encoder_of, task.objectives, gamma=gamma, axis_name=task.axis_name
  )
  return common.on_outputs(task, model=model, gradients=gradients)
