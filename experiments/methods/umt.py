"""Distillation from uni-modal teachers (UMT)."""

from typing import Literal

import jax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import copies

SPACE: base.Space = {'strength': {'low': 0.1, 'high': 30.0, 'scale': 'log'}}


def make(
  task: base.Task,
  *,
  strength: float = 10.0,
  teacher_epochs: float | None = None,
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """Keeps features near those of uni-modal teachers.

      L = L_fused + λ Σ_m mean (z_m - t_m)²

  with the features z_m of modality m and t_m of its teacher; the mean is over
  rows and entries; λ = `strength`, 10 in BalanceBenchmark. The second term is
  the loss 'distillation'. L is the primary objective.

  The teachers are uni-modal models with their own initial parameters (but for
  what `config.warm_start` sets), see `copies.teachers`. From the model's first
  step on they do not change. They are in evaluation mode (running statistics,
  no dropout).

  Args:
    task: what is trained.
    strength: λ ≥ 0.
    teacher_epochs: how long the teachers are trained, above 0; None: as long as
      the model.
    released: 'balance_benchmark': teachers stay in training mode, with dropout
      and the batch's statistics.

  References:
    C. Du et al., `On Uni-Modal Feature Learning in Supervised Multi-Modal
    Learning <https://arxiv.org/abs/2305.01233>`_, ICML 2023.
  """
  checks.at_least_0('umt', strength=strength)
  checks.above_0('umt', teacher_epochs=teacher_epochs)
  made = copies.teachers(task, teacher_epochs)

  def distillation(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    if released:
      taught = dict(state.memory)
      there = state._replace(params=taught.pop('params'), model_state=taught)
      key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
      targets = common.forward(made.model, there, batch, key).features
    else:
      targets = common.features_of(made.model, state.memory, batch)
    apart = copies.distance(outputs.features, targets)
    return {'distillation': strength * apart}

  return common.on_outputs(
    task,
    distillation,
    {'fused': 1.0, 'distillation': 1.0},
    init=lambda state, batch: state._replace(memory=made.init(state, batch)),
    rehearsal=made.rehearsal._replace(
      end=lambda state, taught: state._replace(memory=taught.copy.variables)
    ),
  )
