"""Uni-modal models that are trained before the model."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.methods import base
from experiments.methods import common
from experiments.methods import copies
from mimo_jax import nn


class Teachers(NamedTuple):
  """A uni-modal model a modality, in one: each an encoder and a head."""

  model: nn.LateFusion  # its fusion is not trained
  # (state, batch) -> variables with parameters of their own, not those of the
  # model, which are drawn by the state's key itself
  init: Callable[[base.TrainState, base.Batch], Any]
  # what takes the trained variables into the state -> the rehearsal
  rehearsal: Callable[
    [Callable[[base.TrainState, Any], base.TrainState]], base.Rehearsal
  ]


def of_task(
  task: base.Task,
  method: str,
  epochs: float | None,
  option: str,
  *,
  go_on: bool = False,
) -> Teachers:
  """The uni-modal models of a task, to be trained once, before the first step.

  They are trained on the sum of their losses, over the batches that the model
  will see. No loss touches another's encoder, so that they learn as M models
  apart would, but for what the optimizer computes of all gradients at once,
  such as clipping by the global norm. The learning rate's schedule begins anew
  for them.

  Args:
    task: what the model is trained on.
    method: whose teachers they are, for messages.
    epochs: how long they are trained, above 0; None: as long as the model.
    option: the method's name of it.
    go_on: whether they start from the model's own encoders, of which those that
      are frozen stand still in them; by themselves teachers learn whole.
  """
  if epochs is None:
    epochs = task.steps / task.steps_per_epoch
  common.above_0(method, **{option: epochs})
  if not go_on:
    whole = task.model.clone(frozen=())
    task = task._replace(model=whole, learns=lambda _: True)
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  teach = copies.stepper(task, model, task.modalities)

  def init(state: base.TrainState, batch: base.Batch) -> Any:
    # By the model's own key they would start where it does.
    return model.init(copies.key_of(state, 0), batch)

  def rehearsal(
    end: Callable[[base.TrainState, Any], base.TrainState],
  ) -> base.Rehearsal:
    return base.Rehearsal(
      every_epochs=None,
      begin=lambda state, batch: copies.begin(
        task, state, init(state, batch), 0
      ),
      passes=(base.Pass('train', epochs, lambda _, *rest: teach(*rest)),),
      end=lambda state, copy: end(state, copy.variables),
    )

  return Teachers(model, init, rehearsal)
