"""Gradient blending (G-Blending)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments.methods import base
from experiments.methods import common
from experiments.methods import copies

GRID: base.Grid = {'total': ('one', 'objectives')}


class BlendState(NamedTuple):
  """State of the weighting."""

  blend: jax.Array  # [K], w, the weights until the next rehearsal


class _Scratch(NamedTuple):
  """What a rehearsal has so far: two copies, and four sums of losses."""

  apart: base.TrainState  # learns from the modalities' losses, each its own
  fused: base.TrainState  # learns from the fused loss
  sums: jax.Array  # [4, K], of rows, in the order of `blend`'s arguments
  rows: jax.Array  # [4]


def make(
  task: base.Task,
  *,
  super_epochs: float = 10.0,
  offline: bool = False,
  negative: Literal['zero', 'absolute'] = 'zero',
  total: Literal['one', 'objectives'] = 'one',
) -> base.Method:
  """The fused and the uni-modal losses, weighed by how little they overfit.

  The weights are those of `blend`, from the losses that copies of the model
  have on training and validation rows at both ends of a window: one copy
  learns from the fused loss, another from the uni-modal ones, each of which
  touches its own encoder and head only, as M copies would (but for what an
  optimizer computes of all gradients at once). They start from the model as it
  is, with a fresh optimizer, whose schedules begin anew, and see the batches
  that the model will. Then the model takes the same window with these weights.
  Before the first rehearsal the weights are equal.

  Losses are means over rows in evaluation mode. BalanceBenchmark adds up those
  of batches, of which the splits have different numbers, so that its
  overfitting mixes units. Those on training rows are of the first epoch of the
  window, or all of it if it is shorter. The heads are the model's `auxiliary`
  ones, whatever the configuration says.

  Args:
    task: what is trained.
    super_epochs: the length of a window in epochs, above 0.
    offline: whether the weights are found once, before the first step.
    negative: what a loss counts for that did not fall on validation rows: see
      `blend`.
    total: what the weights add up to: 'one', as in the paper, or the number of
      'objectives', as those of the plain sum do, which suits its learning rate.

  Raises:
    ValueError: if an argument is none of its values.

  References:
    W. Wang, D. Tran and M. Feiszli, `What Makes Training Multi-Modal
    Classification Networks Hard? <https://arxiv.org/abs/1905.12681>`_, CVPR
    2020.
  """
  common.check(
    'g_blending',
    'super_epochs',
    super_epochs,
    super_epochs > 0,
    'a number above 0; for weights that are found once, say offline=True',
  )
  for name, value, known in (
    ('negative', negative, ('zero', 'absolute')),
    ('total', total, ('one', 'objectives')),
  ):
    common.check('g_blending', name, value, value in known, f'one of {known}')
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  objectives = task.objectives
  factor = 1.0 if total == 'one' else float(len(objectives))
  train_apart = copies.stepper(task, model, task.modalities)
  train_fused = copies.stepper(task, model, ('fused',))

  def begin(state: base.TrainState, batch: base.Batch) -> _Scratch:
    del batch
    return _Scratch(
      apart=copies.begin(task, state, state.variables, 0),
      fused=copies.begin(task, state, state.variables, 1),
      sums=jnp.zeros((4, len(objectives)), jnp.result_type(float)),
      rows=jnp.zeros(4, jnp.result_type(float)),
    )

  def train(
    state: base.TrainState, scratch: _Scratch, batch: base.Batch
  ) -> _Scratch:
    del state
    return scratch._replace(
      apart=train_apart(scratch.apart, batch),
      fused=train_fused(scratch.fused, batch),
    )

  def logits_of(state: base.TrainState, batch: base.Batch) -> Any:
    return model.apply(state.variables, batch)

  def at_start(
    state: base.TrainState, scratch: _Scratch, batch: base.Batch
  ) -> Any:
    del scratch  # neither copy has moved
    return logits_of(state, batch)

  def at_end(
    state: base.TrainState, scratch: _Scratch, batch: base.Batch
  ) -> Any:
    del state
    fused = logits_of(scratch.fused, batch)['fused']
    return logits_of(scratch.apart, batch) | {'fused': fused}

  def of_row(logits: dict[str, jax.Array], target: jax.Array) -> base.Losses:
    row = {name: value[None] for name, value in logits.items()}
    return task.losses_of(row, target[None])

  def measure(row: int, logits: Callable[..., Any]) -> Callable[..., _Scratch]:
    def step(
      state: base.TrainState, scratch: _Scratch, batch: base.Batch
    ) -> _Scratch:
      targets = jnp.asarray(batch[task.target])
      mask = jnp.asarray(batch.get('mask', jnp.ones(len(targets), bool)))
      losses = jax.vmap(of_row)(logits(state, scratch, batch), targets)
      values = jnp.stack([losses[name] for name in objectives])  # [K, batch]
      total = jnp.sum(jnp.where(mask[None], values, 0), axis=1)
      return scratch._replace(
        sums=scratch.sums.at[row].add(total),
        rows=scratch.rows.at[row].add(jnp.sum(mask)),
      )

    return step

  def end(state: base.TrainState, scratch: _Scratch) -> base.TrainState:
    weights = blend(*(scratch.sums / scratch.rows[:, None]), negative=negative)
    return state._replace(
      opt_state=optax.tree.set(state.opt_state, blend=factor * weights)
    )

  window = min(super_epochs, 1.0)
  return common.on_outputs(
    task,
    task.balance(_as_blended(factor), objectives=objectives),
    model=model,
    rehearsal=base.Rehearsal(
      every_epochs=None if offline else super_epochs,
      begin=begin,
      passes=(
        base.Pass('train', window, measure(0, at_start)),
        base.Pass('validation', 1.0, measure(1, at_start)),
        base.Pass('train', super_epochs, train),
        base.Pass('train', window, measure(2, at_end)),
        base.Pass('validation', 1.0, measure(3, at_end)),
      ),
      end=end,
    ),
  )


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
  end of a window,

      w_k ∝ ΔG_k / ΔO_k²,    ΔG = V_start - V_end,    O = V - T

  (Wang et al., arXiv 1905.12681), divided by their sum. ΔG is what was learnt
  that generalises, ΔO the growth of what does not.

  An overfitting that does not change would have all of the weight; |ΔO| is
  taken to be the rounding error of the four losses at least. An objective whose
  losses are not all finite gets 0. If all get 0, the weights are equal.

  Args:
    train_start: [K].
    validation_start: [K].
    train_end: [K].
    validation_end: [K].
    negative: of a ΔG < 0, a loss that rose on validation rows: 'zero' gives the
      objective no weight, 'absolute' takes |ΔG|, as BalanceBenchmark does,
      which rewards it.

  Returns:
    w [K], at least 0, of sum 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> weights = blend(
    ...   jnp.array([1.5, 1.6, 1.7]),
    ...   jnp.array([1.6, 1.7, 1.75]),
    ...   jnp.array([0.3, 0.6, 1.2]),
    ...   jnp.array([1.1, 1.2, 1.45]),
    ... )
    >>> weights.tolist()
    [0.097, 0.190, 0.713]
  """
  losses = jnp.stack([train_start, validation_start, train_end, validation_end])
  finite = jnp.all(jnp.isfinite(losses), axis=0)
  start, held_start, end, held_end = jnp.where(finite, losses, 0)
  gain = held_start - held_end
  gain = jnp.abs(gain) if negative == 'absolute' else jnp.maximum(gain, 0)
  rounding = jnp.finfo(losses.dtype).eps * (
    jnp.abs(start) + jnp.abs(held_start) + jnp.abs(end) + jnp.abs(held_end)
  )
  growth = (held_end - end) - (held_start - start)
  growth = jnp.maximum(jnp.abs(growth), rounding)
  useful = finite & (gain > 0)
  # By ratios to the least, whose squares cannot overflow.
  growth = jnp.where(useful, growth, jnp.inf)
  least = jnp.min(growth)
  ratios = jnp.where(useful, least / growth, 0)
  scores = gain / jnp.max(jnp.where(useful, gain, 1)) * ratios**2
  sum_of_scores = jnp.sum(scores)
  none = sum_of_scores == 0
  return jnp.where(
    none, 1 / len(scores), scores / jnp.where(none, 1, sum_of_scores)
  )


def _as_blended(total: float) -> mimo_jax.Weighting:
  """The weights that the state holds; it is a rehearsal that sets them."""

  def init(num_objectives: int, params: Any = None) -> BlendState:
    del params
    equal = jnp.full(
      num_objectives, total / num_objectives, jnp.result_type(float)
    )
    return BlendState(equal)

  def update(
    observation: mimo_jax.Observation, state: BlendState
  ) -> tuple[jax.Array, BlendState]:
    return state.blend.astype(observation.losses.dtype), state

  return mimo_jax.stateful(init, update, needs='losses')
