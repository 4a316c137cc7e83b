"""Copies of a model, trained beside it in a rehearsal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.methods import base
from experiments.methods import common
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
  return optax.apply_if_finite(optimizer, _ALL)
