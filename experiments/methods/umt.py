"""Distillation from uni-modal teachers (UMT)."""

from typing import Any

import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import common
from experiments.methods import copies

GRID: base.Grid = {'strength': (0.1, 1.0, 10.0)}


def make(
  task: base.Task, *, strength: float = 10.0, teacher_epochs: float = 30.0
) -> base.Method:
  """Joint training whose features stay near those of uni-modal teachers.

      L = L_fused + λ Σ_m mean (z_m - t_m)²

  with the features z_m of modality m and those t_m of its teacher, of which the
  mean is over rows and entries; λ = `strength`, 10 in BalanceBenchmark. The
  second term is the objective 'distillation'.

  The teachers are uni-modal models with initial parameters of their own: the
  encoders of a copy of the model, each with a head, trained on the sum of their
  losses before the first step, over the batches that the model will see. No
  loss touches another's encoder, so that they learn as M models apart would,
  but for what the optimizer computes of all gradients at once, such as clipping
  by the global norm. From then on they stand still. They are in evaluation mode
  (running statistics, no dropout), where BalanceBenchmark leaves them in
  training.

  Args:
    task: what is trained.
    strength: λ ≥ 0.
    teacher_epochs: how long the teachers are trained, above 0: as long as the
      model, best. The learning rate's schedule begins anew for them.

  References:
    C. Du et al., `On Uni-Modal Feature Learning in Supervised Multi-Modal
    Learning <https://arxiv.org/abs/2305.01233>`_, ICML 2023.
  """
  at_least_0, above_0 = 'a number of at least 0', 'a number above 0'
  common.check('umt', strength >= 0, at_least_0, strength=strength)
  common.check(
    'umt', teacher_epochs > 0, above_0, teacher_epochs=teacher_epochs
  )
  teachers = task.model.clone(heads='auxiliary', detach_heads=False)
  teach = copies.stepper(task, teachers, task.modalities)

  def distillation(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    targets: Any = teachers.apply(state.memory, batch, method='features')
    distances = [
      jnp.mean((outputs.features[name] - targets[name]) ** 2)
      for name in task.modalities
    ]
    return {'distillation': strength * jnp.sum(jnp.stack(distances))}

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    # By the model's own key the teachers would start where it does.
    variables = teachers.init(copies.key_of(state, 0), batch)
    return state._replace(memory=variables)

  passes = (base.Pass('train', teacher_epochs, lambda _, *rest: teach(*rest)),)
  rehearsal = base.Rehearsal(
    every_epochs=None,
    begin=lambda state, _: copies.begin(task, state, state.memory, 0),
    passes=passes,
    end=lambda state, copy: state._replace(memory=copy.variables),
  )
  return common.joint(
    task, distillation, ('distillation',), init=init, rehearsal=rehearsal
  )
