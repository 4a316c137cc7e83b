"""Innocent uni-modal assistance (MMPareto)."""

import mimo_jax
from experiments.methods import base
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {'gamma': {'low': 1.0, 'high': 2.0}}


def make(task: base.Task, *, gamma: float = 1.5) -> base.Method:
  """The fused and the uni-modal gradient of each encoder, without conflict.

  `mimo_jax.mmpareto`, on the losses of the fused output and of each modality's
  own head. The heads are the model's `auxiliary` ones, whatever the
  configuration says, as in the paper.

  Args:
    task: what is trained.
    gamma: the strength of the combined gradient.

  References:
    Y. Wei and D. Hu, `MMPareto: Boosting Multimodal Learning with Innocent
    Unimodal Assistance <https://arxiv.org/abs/2405.17730>`_, ICML 2024.
  """
  common.check_unweighted(
    task, 'mmpareto', 'it solves for weights of its own, of each encoder'
  )
  gradients = mimo_jax.mmpareto(
    nn.encoder_of, task.objectives, gamma=gamma, axis_name=task.axis_name
  )
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  return common.on_outputs(task, model=model, gradients=gradients)
