"""Uni-modal models that are trained before the model."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import copies
from experiments.methods import means
from mimo_jax import nn


class Teachers(NamedTuple):
  """One uni-modal model per modality, an encoder and a head, joined in one."""

  model: nn.LateFusion  # its fusion is not trained
  # (state, batch) -> variables, drawn by another key than the model's own
  init: Callable[[base.TrainState, base.Batch], Any]
  # ((state, trained variables) -> state) -> the rehearsal
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
  will see. No loss touches another modality's encoder, so they learn as M
  separate models would, except for what the optimizer computes of all gradients
  at once, such as clipping by the global norm. Schedules of the learning rate
  start anew for them.

  Args:
    task: what the model is trained on.
    method: whose teachers they are, for messages.
    epochs: how long they are trained, above 0; None: as long as the model.
    option: the name of `epochs` among the method's arguments, for messages.
    go_on: whether they start from the model's own encoders. Then what is frozen
      in the model is frozen in them; otherwise all of a teacher learns.
  """
  if epochs is None:
    epochs = task.steps / task.steps_per_epoch
  checks.above_0(method, **{option: epochs})
  if not go_on:
    whole = task.model.clone(frozen=())
    task = task._replace(model=whole, learns=lambda _: True)
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  teach = copies.stepper(task, model, task.modalities)

  def init(state: base.TrainState, batch: base.Batch) -> Any:
    # By the model's own key they would start from its parameters.
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


class Answers(NamedTuple):
  """The scratch of a rehearsal that trains teachers and asks them."""

  copy: base.TrainState  # the teachers
  sureness: means.Mean  # [M]


def asked(
  task: base.Task,
  made: Teachers,
  rows: Literal['train', 'validation'],
  end: Callable[[base.TrainState, Any, jax.Array], base.TrainState],
) -> base.Rehearsal:
  """Trains teachers, and then asks how sure each is of the true class.

  That is the mean probability that it gives to the class or, in a regression,
  minus the mean squared error.

  Args:
    task: what the model is trained on.
    made: its teachers.
    rows: the split on which they are asked, for one epoch.
    end: (state, trained variables, how sure they are [M]) -> the next state.
  """
  teaching = made.rehearsal(lambda state, _: state)
  (teach,) = teaching.passes

  def begin(state: base.TrainState, batch: base.Batch) -> Answers:
    nothing = means.begin(len(task.modalities))
    return Answers(teaching.begin(state, batch), nothing)

  def learn(
    state: base.TrainState, scratch: Answers, batch: base.Batch
  ) -> Answers:
    return scratch._replace(copy=teach.step(state, scratch.copy, batch))

  def ask(_: base.TrainState, scratch: Answers, batch: base.Batch) -> Answers:
    logits: Any = made.model.apply(scratch.copy.variables, batch)
    targets, is_row = common.rows_of(task, batch)
    own = [logits[name] for name in task.modalities]
    if task.is_regression:
      sure = [-((one[:, 0] - targets) ** 2) for one in own]
    else:
      labels = jnp.where(is_row, targets, 0)
      sure = [common.sureness(one, labels) for one in own]
    found = means.added(scratch.sureness, jnp.stack(sure), is_row)
    return scratch._replace(sureness=found)

  return base.Rehearsal(
    teaching.every_epochs,
    begin,
    (teach._replace(step=learn), base.Pass(rows, 1.0, ask)),
    lambda state, scratch: end(
      state, scratch.copy.variables, scratch.sureness.value
    ),
  )


def distance(
  features: Mapping[str, jax.Array], taught: Mapping[str, jax.Array]
) -> jax.Array:
  """Σ_m mean (z_m - t_m)² between features of the model and of its teachers.

  The mean is over rows and entries.

  Examples:
    >>> ours = {'audio': jnp.array([[3.0, 1.0]]), 'visual': jnp.ones((1, 1))}
    >>> theirs = {name: jnp.zeros_like(value) for name, value in ours.items()}
    >>> float(distance(ours, theirs))
    6.0
  """
  of_each = [jnp.mean((features[k] - taught[k]) ** 2) for k in sorted(features)]
  return jnp.sum(jnp.stack(of_each))
