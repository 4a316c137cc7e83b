"""Dynamically learnt modality gap (LFM)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.methods import alignments
from experiments.methods import base
from experiments.methods import common
from experiments.methods import moments

SPACE: base.Space = {
  'schedule': {'choices': ('heuristic', 'learned')},
  'alignment': {'choices': ('contrastive', 'js')},
}

_LEAST, _LARGEST = 0.05, 0.95  # share of the alignment, if it is learnt


class _Scratch(NamedTuple):
  """What a rehearsal has so far."""

  params: Any  # θ' after one step of plain descent
  way: Any  # ∇A(θ) - ∇CE(θ)
  slope: jax.Array  # [] sum over rows of the derivative of L_val along the way
  rows: jax.Array  # []


def make(
  task: base.Task,
  *,
  schedule: Literal['heuristic', 'learned'] = 'heuristic',
  alignment: Literal['contrastive', 'js'] = 'contrastive',
  temperature: float = 0.1,
  start: float = 0.95,
  rate: float = 1.0,
  inner_rate: float = 0.1,
) -> base.Method:
  """Aligns the modalities first, and fits the labels more and more.

      L = (1 - a) CE + a A

  with the fused loss CE and the alignment A of the modalities' features, or
  outputs: `alignments.contrastive`, of all pairs, or
  `alignments.jensen_shannon` of the modalities' shares of the fused logits,
  times M, since the paper fuses by their mean. The first takes features of one
  width, the second a fusion that has shares.

  schedule='heuristic': a = 1 - exp(-1/t) in epoch t = 1, 2, ..
  schedule='learned': each epoch a descends the fused loss that a step of plain
  gradient descent on L would leave on held-out rows, those of the validation
  split:

      θ' = θ - ε ∇L(θ),    dL_val(θ')/da = -ε ⟨∇L_val(θ'), ∇A(θ) - ∇CE(θ)⟩

  and stays within 0.05 and 0.95. This takes the gradient of one training batch,
  and one directional derivative of each validation batch.

  Args:
    task: what is trained, on classes.
    schedule: where a comes from.
    alignment: what A is.
    temperature: of the cosines of the contrastive alignment, above 0.
    start: a at first, if it is learnt.
    rate: of the descent of a, above 0, if it is learnt.
    inner_rate: ε > 0.

  The temperature and both rates are ours: of two views of `handwritten`, with
  its rate of 0.05, a goes from 0.95 to 0.42 in 20 epochs (`js`: 0.63).

  The released code swaps the arguments of the divergences, so that its A is not
  Jensen and Shannon's, and is none of the paper's contrastive loss. In place of
  the inner product above it takes the mean of the first tensor of a product
  with the Hessian, so that a hardly moves; its schedule is a polynomial of
  degree five. BalanceBenchmark starts at a = 0.05, and takes test rows.

  References:
    Y. Yang et al., `Facilitating Multimodal Classification via Dynamically
    Learning Modality Gap <https://papers.nips.cc/paper_files/paper/2024/hash/71b17f00017da0d73823ccf7fbce2d4f-Abstract-Conference.html>`_,
    NeurIPS 2024.
  """
  common.check_classes(task, 'lfm')
  common.check_choice('lfm', ('heuristic', 'learned'), schedule=schedule)
  common.check_choice('lfm', ('contrastive', 'js'), alignment=alignment)
  expected = 'a number above 0'
  for option in (
    {'temperature': temperature},
    {'rate': rate},
    {'inner_rate': inner_rate},
  ):
    (value,) = option.values()
    common.check('lfm', value > 0, expected, **option)

  def aligned(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    del batch
    if alignment == 'contrastive':
      return {
        'alignment': alignments.contrastive(outputs.features, temperature)
      }
    shares = task.model.shares(state.variables, outputs.features)
    logits = jnp.stack([shares[name] for name in task.modalities])
    return {'alignment': alignments.jensen_shannon(len(logits) * logits)}

  def share(state: base.TrainState) -> jax.Array:
    if schedule == 'learned':
      return jnp.asarray(state.memory)
    epoch = 1 + state.step // task.steps_per_epoch
    return 1 - jnp.exp(-1 / epoch)

  primary = {'fused': lambda state: 1 - share(state), 'alignment': share}
  if schedule == 'heuristic':
    return common.on_outputs(task, aligned, primary)

  def begin(state: base.TrainState, _: base.Batch) -> _Scratch:
    nothing = jnp.zeros(())
    return _Scratch(state.params, state.params, nothing, nothing)

  def look(
    state: base.TrainState, scratch: _Scratch, batch: base.Batch
  ) -> _Scratch:
    key = jax.random.fold_in(state.key, state.step)

    def losses(params: Any) -> tuple[jax.Array, jax.Array]:
      there = state._replace(params=params)
      outputs = common.forward(task.model, there, batch, key)
      fused = {'fused': outputs.logits['fused']}
      fitted = task.losses_of(fused, batch[task.target])['fused']
      return fitted, aligned(there, batch, outputs)['alignment']

    _, pullback = jax.vjp(losses, state.params)
    one, a = jnp.ones(()), share(state)
    gradient, way = (
      jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * task.learns(moments.keys_of(path)), tree
      )
      for cotangents in ((1 - a, a), (-one, one))
      for tree in pullback(cotangents)
    )
    params = optax.tree.add_scale(state.params, -inner_rate, gradient)
    return scratch._replace(params=params, way=way)

  def feel(
    state: base.TrainState, scratch: _Scratch, batch: base.Batch
  ) -> _Scratch:
    targets = jnp.asarray(batch[task.target])
    mask = batch.get('mask', jnp.ones(len(targets), bool))

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

  def end(state: base.TrainState, scratch: _Scratch) -> base.TrainState:
    slope = -inner_rate * scratch.slope / scratch.rows
    moved = jnp.clip(state.memory - rate * slope, _LEAST, _LARGEST)
    kept = jnp.where(jnp.isfinite(moved), moved, state.memory)
    return state._replace(memory=kept)

  passes = (base.Pass('train', 0.0, look), base.Pass('validation', 1.0, feel))
  return common.on_outputs(
    task,
    aligned,
    primary,
    init=lambda state, _: state._replace(memory=jnp.full((), start, float)),
    rehearsal=base.Rehearsal(1.0, begin, passes, end),
  )
