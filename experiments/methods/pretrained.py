"""Encoders that were trained alone, under a fusion that is trained after."""

import optax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import copies

SPACE: base.Space = {}
RECIPES = {
  'pretrained_frozen': {'frozen': True},
  'pretrained_finetuned': {'frozen': False},
}


def make(
  task: base.Task,
  *,
  frozen: bool = True,
  pretraining_epochs: float | None = None,
  factor: float = 0.1,
) -> base.Method:
  """Training that starts from uni-modal encoders, and their heads.

  Before the first step the model's encoders, each with a head, learn from their
  own loss alone, see `copies.teachers`. The model takes them over and, if its
  heads are `auxiliary`, the heads, too; its fusion starts as usual. Then

  - frozen: the fusion alone learns, from the fused loss. Encoders and heads
    stay as they are to the bit, batch statistics included, and are in
    evaluation mode; the optimizer does not see them, so that neither momentum
    nor weight decay moves them.
  - fine-tuned: everything learns, with the updates of the optimizer, and so its
    learning rate, times `factor`.

  K. Kontras et al. compare with both and have learning rates of 1e-3 alone and
  1e-4 after (CREMA-D): `Balancing Multimodal Training Through Game-Theoretic
  Regularization <https://arxiv.org/abs/2411.07335>`_.

  Args:
    task: what is trained.
    frozen: whether the encoders stand still.
    pretraining_epochs: how long they are trained alone, above 0; None: as long
      as the model after.
    factor: of all updates in fine-tuning, above 0.
  """
  checks.above_0(
    'pretrained', factor=factor, pretraining_epochs=pretraining_epochs
  )

  def taken(state: base.TrainState, taught: copies.Taught) -> base.TrainState:
    variables = taught.copy.variables
    mixed = {
      kind: {
        name: variables[kind][name] if _is_of_modality(name) else leaf
        for name, leaf in tree.items()
      }
      for kind, tree in state.variables.items()
    }
    params = mixed.pop('params')
    return state._replace(params=params, model_state=mixed)

  # From the model's own encoders, which `config.warm_start` may have set.
  made = copies.teachers(task, pretraining_epochs, go_on=True)
  rehearsal = made.rehearsal._replace(
    end=taken, moves=lambda path: _is_of_modality(path[0])
  )
  if not frozen:
    optimizer = optax.chain(task.optimizer(1), optax.scale(factor))
    return common.on_outputs(
      task, rehearsal=rehearsal, optimizer=optimizer, takes_missing=True
    )
  checks.unweighted(
    task, 'pretrained', 'with frozen encoders the fused loss alone is learnt'
  )

  optimizer = optax.partition(
    {'frozen': optax.set_to_zero(), 'learns': task.optimizer(1)},
    lambda params: {
      name: 'frozen' if _is_of_modality(name) else 'learns' for name in params
    },
  )
  return common.on_outputs(
    task,
    model=task.model.clone(frozen=task.modalities),
    rehearsal=rehearsal,
    optimizer=optimizer,
    takes_missing=True,
  )


def _is_of_modality(name: str) -> bool:
  """Whether a part of the model is an encoder or a head."""
  return name.startswith(('encoders_', 'heads_'))
