"""How a held-out loss would respond to a weight, one step ahead."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.methods import base
from experiments.methods import common
from experiments.methods import moments


class Scratch(NamedTuple):
  """What a rehearsal has so far."""

  params: Any  # θ' after one step of plain descent
  way: Any  # ∇A(θ) - ∇CE(θ)
  slope: jax.Array  # [] sum over rows of the derivative of L_val along the way
  rows: jax.Array  # []


def rehearsal(
  task: base.Task,
  own: common.Own,
  share: Callable[[base.TrainState], jax.Array],
  rate: float,
  end: Callable[[base.TrainState, jax.Array], base.TrainState],
) -> base.Rehearsal:
  """Computes, each epoch, the derivative of the held-out loss by a share a.

  With L = (1 - a) CE + a A, where CE is the fused loss, it takes a step of
  plain gradient descent. L_val is the fused loss on the validation split:

      θ' = θ - ε ∇L(θ),    dL_val(θ')/da = -ε ⟨∇L_val(θ'), ∇A(θ) - ∇CE(θ)⟩

  This takes the gradient of one training batch, and one directional derivative
  per validation batch.

  Args:
    task: what is trained. Parameters that do not learn stay as they are.
    own: one loss, A.
    share: state -> a.
    rate: ε > 0.
    end: (state, derivative []) -> the next state.
  """

  def begin(state: base.TrainState, _: base.Batch) -> Scratch:
    nothing = jnp.zeros(())
    return Scratch(state.params, state.params, nothing, nothing)

  def look(
    state: base.TrainState, scratch: Scratch, batch: base.Batch
  ) -> Scratch:
    key = jax.random.fold_in(state.key, state.step)

    def losses(params: Any) -> tuple[jax.Array, jax.Array]:
      there = state._replace(params=params)
      outputs = common.forward(task.model, there, batch, key)
      fused = {'fused': outputs.logits['fused']}
      fitted = task.losses_of(fused, batch[task.target])['fused']
      (loss,) = own(there, batch, outputs).values()
      return fitted, loss

    _, pullback = jax.vjp(losses, state.params)
    one, a = jnp.ones(()), share(state)
    gradient, way = (
      moments.mapped(
        lambda path, leaf: leaf if task.learns(path) else jnp.zeros_like(leaf),
        tree,
      )
      for cotangents in ((1 - a, a), (-one, one))
      for tree in pullback(cotangents)
    )
    params = optax.tree.add_scale(state.params, -rate, gradient)
    return scratch._replace(params=params, way=way)

  def feel(
    state: base.TrainState, scratch: Scratch, batch: base.Batch
  ) -> Scratch:
    targets, mask = common.rows_of(task, batch)

    def held(params: Any) -> jax.Array:
      variables = state._replace(params=params).variables
      logits: Any = task.model.apply(variables, batch)
      fused = {'fused': logits['fused']}
      loss: jax.Array = task.losses_of(fused, targets, mask)['fused']
      return loss

    rows = jnp.sum(mask)
    _, slope = jax.jvp(held, (scratch.params,), (scratch.way,))
    return scratch._replace(
      slope=scratch.slope + rows * slope, rows=scratch.rows + rows
    )

  passes = (base.Pass('train', 0.0, look), base.Pass('validation', 1.0, feel))
  return base.Rehearsal(
    every_epochs=1.0,
    begin=begin,
    passes=passes,
    end=lambda state, scratch: end(state, -rate * scratch.slope / scratch.rows),
  )
