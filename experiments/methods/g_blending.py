"""Gradient blending (G-Blending)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import copies
from experiments.methods import means
from experiments.methods import overfitting

SPACE: base.Space = {'total': {'choices': ('one', 'objectives')}}


class BlendState(NamedTuple):
  """State of the weighting."""

  blend: jax.Array  # [K], w, the weights until the next rehearsal


class _Scratch(NamedTuple):
  """What a rehearsal has so far: two copies, and the measured losses."""

  apart: base.TrainState  # learns from the modalities' losses, each its own
  fused: base.TrainState  # learns from the fused loss
  losses: tuple[means.Mean, ...]  # four, as `overfitting.blend` takes them


def make(
  task: base.Task,
  *,
  super_epochs: float = 10.0,
  offline: bool = False,
  negative: Literal['zero', 'absolute'] = 'zero',
  total: Literal['one', 'objectives'] = 'one',
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """The fused and the uni-modal losses, weighed by how little they overfit.

  The weights are those of `overfitting.blend`, from the losses of two copies of
  the model on training and validation rows at both ends of a window. One copy
  learns from the fused loss. The other learns from the uni-modal losses, as M
  copies would, since each loss touches its own encoder and head only (except
  for what an optimizer computes of all gradients at once). The copies start
  from the present model, with a fresh optimizer, whose schedules start anew,
  and see the batches that the model will see. Then the model trains through the
  same window with these weights. Before the first rehearsal the weights are
  equal.

  Losses are means over rows in evaluation mode. Those on training rows are of
  the first epoch of the window, or all of it if it is shorter. The heads are
  the model's `auxiliary` ones, whatever the configuration says.

  Args:
    task: what is trained.
    super_epochs: the length of a window in epochs, above 0.
    offline: whether the weights are found once, before the first step.
    negative: how a loss counts that rose on validation rows: see
      `overfitting.blend`.
    total: what the weights add up to: 'one', as in the paper, or the number of
      'objectives', as in the plain sum, whose learning rate then fits.
    released: 'balance_benchmark': losses are sums of batch means, and splits
      have different numbers of batches, so that overfitting mixes units.

  References:
    W. Wang, D. Tran and M. Feiszli, `What Makes Training Multi-Modal
    Classification Networks Hard? <https://arxiv.org/abs/1905.12681>`_, CVPR
    2020.
  """
  expected = 'a number above 0; offline=True finds the weights once'
  checks.option(
    'g_blending', super_epochs > 0, expected, super_epochs=super_epochs
  )
  checks.choice('g_blending', ('zero', 'absolute'), negative=negative)
  checks.choice('g_blending', ('one', 'objectives'), total=total)
  known = (None, 'balance_benchmark')
  checks.choice('g_blending', known, released=released)
  checks.unweighted(
    task, 'g_blending', 'it finds the weights of the losses itself'
  )
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  objectives = task.objectives
  factor = 1.0 if total == 'one' else float(len(objectives))
  train_apart = copies.stepper(task, model, task.modalities)
  train_fused = copies.stepper(task, model, ('fused',))

  def begin(state: base.TrainState, _: base.Batch) -> _Scratch:
    return _Scratch(
      apart=copies.begin(task, state, state.variables, 0),
      fused=copies.begin(task, state, state.variables, 1),
      losses=tuple(means.begin(len(objectives)) for _ in range(4)),
    )

  def train(_: Any, scratch: _Scratch, batch: base.Batch) -> _Scratch:
    return scratch._replace(
      apart=train_apart(scratch.apart, batch),
      fused=train_fused(scratch.fused, batch),
    )

  def measure(number: int) -> Callable[..., _Scratch]:
    def step(
      state: base.TrainState, scratch: _Scratch, batch: base.Batch
    ) -> _Scratch:
      # At the start neither copy has moved from the state.
      apart, fused = (state, state) if number < 2 else scratch[:2]
      logits: Any = model.apply(apart.variables, batch)
      of_fused: Any = model.apply(fused.variables, batch)
      logits |= {'fused': of_fused['fused']}
      targets, is_row = common.rows_of(task, batch)
      # Each row is a batch of its own.
      rows = jax.tree.map(lambda leaf: leaf[:, None], (logits, targets))
      of_rows = jax.vmap(task.losses_of)(*rows)
      values = jnp.stack([of_rows[name] for name in objectives])  # [K, batch]
      losses = list(scratch.losses)
      if released:  # there is one row, with the sum of the means as its loss
        of_batch = means.added(means.begin(len(values)), values, is_row)
        sums = losses[number].sums + of_batch.value
        losses[number] = means.Mean(sums, jnp.ones(()))
      else:
        losses[number] = means.added(losses[number], values, is_row)
      return scratch._replace(losses=tuple(losses))

    return step

  def end(state: base.TrainState, scratch: _Scratch) -> base.TrainState:
    losses = (mean.value for mean in scratch.losses)
    weights = factor * overfitting.blend(*losses, negative=negative)
    opt_state = optax.tree.set(state.opt_state, blend=weights)
    return state._replace(opt_state=opt_state)

  window = min(super_epochs, 1.0)
  passes = (
    base.Pass('train', window, measure(0)),
    base.Pass('validation', 1.0, measure(1)),
    base.Pass('train', super_epochs, train),
    base.Pass('train', window, measure(2)),
    base.Pass('validation', 1.0, measure(3)),
  )
  every_epochs = None if offline else super_epochs
  return common.on_outputs(
    task,
    model=model,
    gradients=task.balance(_as_blended(factor), objectives=objectives),
    rehearsal=base.Rehearsal(every_epochs, begin, passes, end),
  )


def _as_blended(total: float) -> mimo_jax.Weighting:
  """A weighting by the weights in its state, which a rehearsal sets."""

  def init(count: int) -> BlendState:
    return BlendState(jnp.full(count, total / count, float))

  def update(_: Any, state: BlendState) -> tuple[jax.Array, BlendState]:
    return state.blend, state

  return mimo_jax.stateful(init, update, needs='losses')
