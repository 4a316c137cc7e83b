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

SPACE: base.Space = {'total': {'choices': ('one', 'objectives')}}


class BlendState(NamedTuple):
  """State of the weighting."""

  blend: jax.Array  # [K], w, the weights until the next rehearsal


class _Scratch(NamedTuple):
  """What a rehearsal has so far: two copies, and the measured losses."""

  apart: base.TrainState  # learns from the modalities' losses, each its own
  fused: base.TrainState  # learns from the fused loss
  losses: tuple[means.Mean, ...]  # four, as `blend` takes them


def make(
  task: base.Task,
  *,
  super_epochs: float | None = None,
  offline: bool = False,
  negative: Literal['zero', 'absolute'] = 'zero',
  total: Literal['one', 'objectives'] = 'one',
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """The fused and the uni-modal losses, weighed by how little they overfit.

  The weights are those of `blend`, from the losses of two copies of
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
    super_epochs: the length of a window in epochs, above 0; None: a fifth of
      the training.
    offline: whether the weights are found once, before the first step.
    negative: how a loss counts that rose on validation rows: see
      `blend`.
    total: what the weights add up to: 'one', as in the paper, or the number of
      'objectives', as in the plain sum, whose learning rate then fits.
    released: 'balance_benchmark': losses are sums of batch means, and splits
      have different numbers of batches, so that overfitting mixes units.

  References:
    W. Wang, D. Tran and M. Feiszli, `What Makes Training Multi-Modal
    Classification Networks Hard? <https://arxiv.org/abs/1905.12681>`_, CVPR
    2020.
  """
  super_epochs = common.epochs_of(task, super_epochs, 1 / 5)
  expected = 'a number above 0; offline=True finds the weights once'
  checks.option(
    'g_blending', super_epochs > 0, expected, super_epochs=super_epochs
  )
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
    weights = factor * blend(*losses, negative=negative)
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


def blend(
  train_start: jax.Array,
  validation_start: jax.Array,
  train_end: jax.Array,
  validation_end: jax.Array,
  *,
  negative: Literal['zero', 'absolute'] = 'zero',
) -> jax.Array:
  """Weights by how much objectives generalise and how little they overfit.

  With the training losses T and the validation losses V at the start and the
  end of a window, each [K],

      w_k ∝ ΔG_k / ΔO_k²,    ΔG = V_start - V_end,    O = V - T

  divided by their sum. ΔG is what was learnt and generalises, ΔO the growth of
  what does not. If ΔG < 0, since the loss rose on validation rows,
  `negative='zero'` gives the objective no weight, and 'absolute' takes |ΔG|, as
  BalanceBenchmark does, which rewards the rise.

  An objective whose overfitting does not change would get all of the weight, so
  |ΔO| is at least the rounding error of the four losses. An objective whose
  losses are not all finite gets 0. If all get 0, the weights are equal.
  """
  losses = jnp.stack([train_start, validation_start, train_end, validation_end])
  finite = jnp.all(jnp.isfinite(losses), axis=0)
  losses = jnp.where(finite, losses, 0)
  start, held_start, end, held_end = losses
  gain = held_start - held_end
  gain = jnp.abs(gain) if negative == 'absolute' else jnp.maximum(gain, 0)
  rounding = jnp.finfo(losses.dtype).eps * jnp.sum(jnp.abs(losses), axis=0)
  growth = (held_end - end) - (held_start - start)
  growth = jnp.maximum(jnp.abs(growth), rounding)
  useful = finite & (gain > 0)
  # Ratios to the least growth, since their squares cannot overflow.
  least = jnp.min(jnp.where(useful, growth, jnp.inf))
  ratios = jnp.where(useful, least / growth, 0)
  scores = gain / jnp.max(jnp.where(useful, gain, 1)) * ratios**2
  total = jnp.sum(scores)
  none = total == 0
  return jnp.where(none, 1 / len(scores), scores / jnp.where(none, 1, total))
