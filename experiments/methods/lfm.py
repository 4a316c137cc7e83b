"""Dynamically learnt modality gap (LFM)."""

import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import moments

SPACE: base.Space = {
  'schedule': {'choices': ('heuristic', 'learned')},
  'alignment': {'choices': ('contrastive', 'js')},
}

_LEAST, _LARGEST = 0.05, 0.95  # share of the alignment, if it is learnt

# Coefficients of the released schedule of 1 - a, by powers of the epoch.
_POLYNOMIAL = (
  0.204623704,
  3.35472727e-3,
  1.22989557e-4,
  -2.92947416e-6,
  2.23835486e-8,
  -5.39717505e-11,
)


class Lookahead(NamedTuple):
  """What the rehearsal of a learned share has so far."""

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
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Aligns the modalities first, and fits the labels more and more.

      L = (1 - a) CE + a A

  with the fused loss CE and an alignment A: the loss `contrastive` of all
  features, or the divergence `jensen_shannon` of the modalities' shares of the
  fused logits, times M, since the paper fuses by their mean. The first needs
  features of one width, the second a fusion that has shares.

  schedule='heuristic': a = 1 - exp(-1/t) in epoch t = 1, 2, ..
  schedule='learned': each epoch, a takes a step that lowers L_val, the fused
  loss on the validation split after a step of plain gradient descent on L:

      θ' = θ - ε ∇L(θ),    dL_val(θ')/da = -ε ⟨∇L_val(θ'), ∇A(θ) - ∇CE(θ)⟩

  It stays within 0.05 and 0.95. This takes the gradient of one training batch,
  and one directional derivative per validation batch. Parameters that do not
  learn stay as they are.

  Args:
    task: what is trained, on classes.
    schedule: where a comes from.
    alignment: what A is.
    temperature: of the cosines of the contrastive alignment, above 0.
    start: a at first, if it is learnt.
    rate: the step size of a, above 0, if it is learnt.
    inner_rate: ε, the step size on L, above 0.
    released: 'authors': with alignment='js', whose divergences have swapped
      arguments, so that it is not Jensen and Shannon's; the schedule is a
      polynomial of degree five, from a = 0.8 to 0.2 in 150 epochs.

  The temperature and both rates are our choice: on two views of `handwritten`,
  at its learning rate of 0.05, a goes from 0.95 to 0.42 in 20 epochs (`js`:
  0.63).

  The released code lacks the paper's contrastive loss. To learn a, it takes the
  mean of the first tensor of a product with the Hessian, so that a hardly
  moves. BalanceBenchmark starts at a = 0.05, and learns a on test rows.

  References:
    Y. Yang et al., `Facilitating Multimodal Classification via Dynamically
    Learning Modality Gap <https://papers.nips.cc/paper_files/paper/2024/hash/71b17f00017da0d73823ccf7fbce2d4f-Abstract-Conference.html>`_,
    NeurIPS 2024.
  """
  checks.classes(task, 'lfm')
  checks.several(task, 'lfm')
  checks.above_0(
    'lfm', temperature=temperature, rate=rate, inner_rate=inner_rate
  )
  if released:
    needed = "'js', of which the released code has a variant"
    checks.option('lfm', alignment == 'js', needed, alignment=alignment)

  def aligned(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    del batch
    if alignment == 'contrastive':
      aligned_by = contrastive(outputs.features, temperature)
    else:
      shares = task.model.shares(state.variables, outputs.features)
      logits = jnp.stack([shares[name] for name in task.modalities])
      aligned_by = jensen_shannon(
        len(logits) * logits, swapped=released is not None
      )
    return {'alignment': aligned_by}

  def share(state: base.TrainState) -> jax.Array:
    if schedule == 'learned':
      return jnp.asarray(state.memory)
    epoch = state.step // task.steps_per_epoch
    if released:
      return 1 - jnp.clip(
        jnp.polyval(jnp.array(_POLYNOMIAL[::-1]), epoch), 0, 1
      )
    return 1 - jnp.exp(-1 / (1 + epoch))

  primary = {'fused': lambda state: 1 - share(state), 'alignment': share}
  if schedule == 'heuristic':
    return common.on_outputs(task, aligned, primary)

  def begin(state: base.TrainState, _: base.Batch) -> Lookahead:
    nothing = jnp.zeros(())
    return Lookahead(state.params, state.params, nothing, nothing)

  def look(
    state: base.TrainState, scratch: Lookahead, batch: base.Batch
  ) -> Lookahead:
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
      moments.mapped(
        lambda path, leaf: leaf if task.learns(path) else jnp.zeros_like(leaf),
        *pullback(cotangents),
      )
      for cotangents in ((1 - a, a), (-one, one))
    )
    params = optax.tree.add_scale(state.params, -inner_rate, gradient)
    return scratch._replace(params=params, way=way)

  def feel(
    state: base.TrainState, scratch: Lookahead, batch: base.Batch
  ) -> Lookahead:
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

  def end(state: base.TrainState, scratch: Lookahead) -> base.TrainState:
    slope = -inner_rate * scratch.slope / scratch.rows
    found = jnp.clip(state.memory - rate * slope, _LEAST, _LARGEST)
    kept = jnp.where(jnp.isfinite(found), found, state.memory)
    return state._replace(memory=kept)

  passes = (base.Pass('train', 0.0, look), base.Pass('validation', 1.0, feel))
  return common.on_outputs(
    task,
    aligned,
    primary,
    init=lambda state, _: state._replace(memory=jnp.full((), start, float)),
    rehearsal=base.Rehearsal(1.0, begin, passes, end),
  )


def contrastive(
  features: Mapping[str, jax.Array], temperature: float
) -> jax.Array:
  """How hard it is to tell which features [batch, d] are of the same row.

  It is the mean, over all ordered pairs of modalities and over rows i, of the
  cross entropy of softmax(cos(z_i, z'_j) / τ) over j, where i is true.
  """
  method = "lfm with alignment='contrastive'"
  checks.one_width(method, features, ", or choose alignment='js'")

  def unit(value: jax.Array) -> jax.Array:
    squared = jnp.sum(value**2, axis=1, keepdims=True)
    return value * lax.rsqrt(jnp.maximum(squared, 1e-12))

  losses = []
  for one, other in itertools.permutations(sorted(features), 2):
    cosines = unit(features[one]) @ unit(features[other]).T
    log_shares = jax.nn.log_softmax(cosines / temperature)
    losses.append(-jnp.mean(jnp.diagonal(log_shares)))
  return jnp.mean(jnp.stack(losses))


def jensen_shannon(logits: jax.Array, *, swapped: bool = False) -> jax.Array:
  """The divergence of M outputs [M, batch, C] from their mean, in nats.

  It is the mean over rows of (1/M) Σ_m KL(p_m ‖ mean of all p), from 0 to
  log M; with swapped arguments, KL(mean of all p ‖ p_m), which has no bound.
  """
  own = jax.nn.log_softmax(logits)
  mean = jax.nn.logsumexp(own, axis=0, keepdims=True) - jnp.log(len(own))
  of, to = (mean, own) if swapped else (own, mean)
  divergences = jnp.sum(jnp.exp(of) * (of - to), axis=-1)
  return jnp.mean(divergences)
