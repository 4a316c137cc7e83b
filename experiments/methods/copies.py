"""Copies of a model, and uni-modal teachers, which a rehearsal trains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.methods import base
from experiments.methods import common
from experiments.methods import means
from experiments.methods import moments
from mimo_jax import nn

# Keys of copies are folded by numbers from here down, which no step reaches.
_LAST = 2**32 - 1
# Non-finite updates in a row that are skipped: all of them.
_ALL = 2**31 - 1


def begin(
  task: base.Task,
  state: base.TrainState,
  variables: Mapping[str, Any],
  number: int,
) -> base.TrainState:
  """The state of a copy before its first step, without memory.

  It starts from `variables`, with a fresh state of the task's optimizer, so
  that schedules start anew. `number` tells copies apart, from 0.
  """
  rest = dict(variables)
  params = rest.pop('params')
  return base.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=rest,
    opt_state=_optimizer(task).init(params),
    memory=(),
    key=key_of(state, number),
  )


def key_of(state: base.TrainState, number: int) -> jax.Array:
  """The key of a copy, which differs between copies and between steps."""
  key = jax.random.fold_in(state.key, _LAST - number)
  return jax.random.fold_in(key, state.step)


def stepper(
  task: base.Task, model: nn.LateFusion, objectives: Sequence[str]
) -> Callable[[base.TrainState, base.Batch], base.TrainState]:
  """`step(copy, batch) -> copy`, on the sum of the losses of some outputs.

  A step whose gradient is not finite is skipped.
  """
  optimizer = _optimizer(task)

  def step(copy: base.TrainState, batch: base.Batch) -> base.TrainState:
    key = jax.random.fold_in(copy.key, copy.step)

    def loss(params: Any) -> tuple[jax.Array, Any]:
      outputs = common.forward(model, copy._replace(params=params), batch, key)
      logits = {name: outputs.logits[name] for name in objectives}
      mask = common.present_rows(task, batch)
      losses = task.losses_of(logits, batch[task.target], mask)
      total = jnp.sum(jnp.stack([losses[name] for name in objectives]))
      return total, outputs.model_state

    gradient, model_state = jax.grad(loss, has_aux=True)(copy.params)
    updates, opt_state = optimizer.update(gradient, copy.opt_state, copy.params)
    is_finite = optax.tree.get(opt_state, 'last_finite')
    return copy._replace(
      step=copy.step + 1,
      params=optax.apply_updates(copy.params, updates),
      model_state=optax.tree.where(is_finite, model_state, copy.model_state),
      opt_state=opt_state,
    )

  return step


def _optimizer(task: base.Task) -> optax.GradientTransformation:
  """The task's optimizer for what learns, which skips non-finite updates."""

  def kinds(params: Any) -> Any:
    return moments.mapped(lambda path, _: task.learns(path), params)

  optimizer = optax.partition(
    {True: task.optimizer(1), False: optax.set_to_zero()}, kinds
  )
  return optax.apply_if_finite(task.accumulated(optimizer), _ALL)


class Taught(NamedTuple):
  """The scratch of a rehearsal that trains teachers."""

  copy: base.TrainState  # the teachers
  sureness: means.Mean  # [M], of the true class, if they were asked


class Teachers(NamedTuple):
  """One uni-modal model per modality, an encoder and a head, joined in one."""

  model: nn.LateFusion  # its fusion is not trained
  # (state, batch) -> their variables before they are trained
  init: Callable[[base.TrainState, base.Batch], Any]
  # Trains them once, before the first step. Its `end`, from the state and
  # `Taught`, says what they leave: nothing, unless it is replaced.
  rehearsal: base.Rehearsal


def teachers(
  task: base.Task,
  epochs: float | None,
  *,
  ask: Literal['train', 'validation'] | None = None,
  go_on: bool = False,
) -> Teachers:
  """The uni-modal models of a task.

  They are trained on the sum of their losses, over the batches that the model
  will see. No loss touches another modality's encoder, so they learn as M
  separate models would, except for what the optimizer computes of all gradients
  at once, such as clipping by the global norm. Schedules of the learning rate
  start anew for them.

  Args:
    task: what the model is trained on.
    epochs: how long they are trained; None: as long as the model.
    ask: the split on which they are then asked for one epoch how sure they are:
      for the mean probability of the true class or, in a regression, minus the
      mean squared error. None: they are not asked.
    go_on: whether they start from the model's own encoders, and not from those
      alone that `config.warm_start` has set. Then what is frozen in the model
      is frozen in them; otherwise all of a teacher learns.
  """
  epochs = common.epochs_of(task, epochs)
  if not go_on:
    whole = task.model.clone(frozen=())
    task = task._replace(model=whole, learns=lambda _: True)
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  teach = stepper(task, model, task.modalities)

  def init(state: base.TrainState, batch: base.Batch) -> Any:
    # By the model's own key they would start from its parameters.
    fresh: Any = model.init(key_of(state, 0), batch)
    # Copies, since the step donates the params' buffers.
    taken = {
      kind: {
        k: jax.tree.map(jnp.copy, leaf)
        for k, leaf in tree.items()
        if go_on or k in task.warm
      }
      for kind, tree in state.variables.items()
    }
    return {
      kind: {k: taken[kind].get(k, leaf) for k, leaf in tree.items()}
      for kind, tree in fresh.items()
    }

  def begin_all(state: base.TrainState, batch: base.Batch) -> Taught:
    copy = begin(task, state, init(state, batch), 0)
    return Taught(copy, means.begin(len(task.modalities)))

  def learn(_: base.TrainState, scratch: Taught, batch: base.Batch) -> Taught:
    return scratch._replace(copy=teach(scratch.copy, batch))

  def answer(_: base.TrainState, scratch: Taught, batch: base.Batch) -> Taught:
    logits: Any = model.apply(scratch.copy.variables, batch)
    targets, is_row = common.rows_of(task, batch)
    own = [logits[name] for name in task.modalities]
    if task.is_regression:
      sure = [-((one[:, 0] - targets) ** 2) for one in own]
    else:
      labels = jnp.where(is_row, targets, 0)
      sure = [common.sureness(one, labels) for one in own]
    found = means.added(scratch.sureness, jnp.stack(sure), is_row)
    return scratch._replace(sureness=found)

  passes = [base.Pass('train', epochs, learn)]
  passes += [base.Pass(ask, 1.0, answer)] if ask else []
  rehearsal = base.Rehearsal(
    None, begin_all, tuple(passes), lambda state, _: state
  )
  return Teachers(model, init, rehearsal)


def distance(
  features: Mapping[str, jax.Array], taught: Mapping[str, jax.Array]
) -> jax.Array:
  """Σ_m mean (z_m - t_m)² over rows and entries, of features and teachers'."""
  of_each = [jnp.mean((features[k] - taught[k]) ** 2) for k in sorted(features)]
  return jnp.sum(jnp.stack(of_each))
