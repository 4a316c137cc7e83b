"""Training on misaligned samples (MIDAS)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import means
from mimo_jax import nn

SPACE: base.Space = {
  'strength': {'low': 0.3, 'high': 10.0, 'scale': 'log'},
  'warm_up': {'low': 0.05, 'high': 0.3},
}

_EPOCHS = 70  # of the paper's trainings


def make(
  task: base.Task,
  *,
  strength: float = 1.0,
  warm_up: float = 0.1,
  rate: float = 0.05,
) -> base.Method:
  """Fuses modalities of different rows, with the labels of all those rows.

      L = L_fused + Σ_m L_m + λ L_mis

  After a warm-up on the uni-modal losses alone, rows of the batch are mixed:
  with two modalities, the first is taken from row i and the second from a
  random row j, and the other way round. Let j_m be the source row of modality
  m; c_m the probability that its own head gives to the true class of the
  source, divided by the sum of these over m; and p the fused probabilities.

      L_mis = mean h · (-Σ_m α_m c_m log p[y of j_m]),
      h = 1 + (s + 1)/2

  with s the cosine between new features and those that they replaced: mixed
  rows that are hard to tell from whole ones count more. c and h have no
  gradients. Mixed rows whose sources all have one class are left out.

  α_m is 1, except for the weak modality, which has the smallest mean of c in
  the batch. If the fused output trusts it less than its own head does, a < c,
  its α grows after the step:

      α ← max(1, α + η mean (c - a)),    a = p[y of j_weak] / Σ_m p[y of j_m]

  α is 1 again at each epoch's start, and when another modality becomes the weak
  one. An epoch is at least a seventieth of the training. This takes two more
  fusions, and no further encoding.

  The heads are the model's `auxiliary` ones, whatever the configuration says.
  L_mis is the loss 'misaligned', a part of the primary objective.

  Args:
    task: what is trained, on classes, with two modalities at least.
    strength: λ ≥ 0: 5 on Kinetics-Sounds, 1 elsewhere.
    warm_up: the warm-up's part of the training's steps, from 0 to 1; the paper
      gives no number.
    rate: η ≥ 0.

  With three or more modalities, a mixed row has M sources, the row itself and
  M - 1 random ones. Each modality comes from one of them, in a random
  arrangement and, for a second mixed row, in its mirror image. s is the mean
  over the modalities that were replaced.

  From the paper's text; no code is public.

  References:
    S.-H. Hwang et al., `MIDAS: Misalignment-based Data Augmentation Strategy
    for Imbalanced Multimodal Learning <https://arxiv.org/abs/2509.25831>`_,
    NeurIPS 2025.
  """
  checks.classes(task, 'midas')
  checks.several(task, 'midas')
  checks.at_least_0('midas', strength=strength, rate=rate)
  checks.from_0_to_1('midas', warm_up=warm_up)
  names = task.modalities
  task = common.with_own_weights(task, 1.0, 1.0)
  model = task.model.clone(heads='auxiliary')

  def mixed(
    state: base.TrainState,
    outputs: common.Outputs,
    targets: jax.Array,
    order: jax.Array,
  ) -> tuple[jax.Array, ...]:
    """Of mixed rows: c and log p [batch, M], h, and which of them count."""
    features, cosines, own, replaced = {}, [], [], []
    for name, rows in zip(names, order, strict=True):
      features[name] = outputs.features[name][rows]
      apart = lax.stop_gradient(outputs.features[name])
      cosines.append(_cosine(apart[rows], apart))
      replaced.append(rows != jnp.arange(len(rows)))
      own.append(common.sureness(outputs.logits[name], targets)[rows])
    fused = model.fuse(state.variables, features, train=True)
    labels = targets[order]  # [M, batch]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(fused), labels.T, axis=1)
    stacked = jnp.stack(own, axis=1)
    least = jnp.finfo(stacked.dtype).tiny
    shares = (stacked + least) / jnp.sum(stacked + least, axis=1, keepdims=True)
    similarity = means.of(jnp.stack(cosines), jnp.stack(replaced), axis=0)
    counts = jnp.any(labels != labels[:1], axis=0)
    return shares, log_p, 1 + (similarity + 1) / 2, counts

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, _: Any
  ) -> tuple[base.Losses, base.Seen]:
    outputs = common.forward(model, state, batch, key)
    targets = jnp.asarray(batch[task.target])
    is_warmed_up = state.step >= warm_up * task.steps
    is_first = state.step % common.period(task, _EPOCHS) == 0
    alpha = jnp.where(is_first, jnp.ones_like(state.memory), state.memory)
    mixed_rows = [
      mixed(state, outputs, targets, order)
      for order in sources(state, len(names), targets.shape[0])
    ]
    own, log_fused, hardness, counts = map(
      jnp.stack, zip(*mixed_rows, strict=True)
    )
    alpha, grown = adapted(alpha, own, log_fused, counts, rate)
    terms = -hardness * ((own * log_fused) @ alpha)  # [2, batch]
    misaligned = means.of(terms, counts)
    fused = nn.scale_gradient(
      outputs.logits['fused'], jnp.where(is_warmed_up, 1.0, 0.0)
    )
    found = task.losses_of(outputs.logits | {'fused': fused}, targets)
    found['misaligned'] = jnp.where(is_warmed_up, strength * misaligned, 0)
    memory = jnp.where(is_warmed_up, grown, jnp.ones_like(alpha))
    return found, base.Seen(outputs.model_state, memory)

  return common.on_outputs(
    task,
    primary={'fused': 1.0, 'misaligned': 1.0},
    model=model,
    losses=losses,
    init=lambda state, _: state._replace(memory=jnp.ones(len(names))),
  )


def sources(
  state: base.TrainState, modalities: int, rows: int
) -> tuple[jax.Array, jax.Array]:
  """Which row each modality of a mixed row comes from: two arrays [M, batch].

  The second is the mirror image of the first. With two modalities, one of them
  comes from the row itself in each array.
  """
  others = common.orders(state, modalities - 1, rows)
  rows_of_each = jnp.concatenate([jnp.arange(rows)[None], others])
  (places,) = common.orders(state, 1, modalities, draw=1)
  return rows_of_each[places], rows_of_each[modalities - 1 - places]


def adapted(
  alpha: jax.Array,
  own: jax.Array,
  log_fused: jax.Array,
  counts: jax.Array,
  rate: float,
) -> tuple[jax.Array, jax.Array]:
  """α [M] of a step, and of the next one; 1 for all but the weak modality.

  The weak modality has the least mean of c, `own` [2, batch, M], over rows that
  count [2, batch]. `log_fused` [2, batch, M] is log p of the sources' classes.
  """
  count = alpha.shape[0]
  of_each = jnp.stack([means.of(own[..., i], counts) for i in range(count)])
  is_weak = jnp.arange(count) == jnp.argmin(of_each)
  alpha = jnp.where(is_weak, alpha, 1)
  trust = jax.nn.softmax(lax.stop_gradient(log_fused), axis=-1)
  apart = (own - trust) @ is_weak.astype(own.dtype)
  grown = jnp.maximum(1, alpha + rate * means.of(apart, counts))
  return alpha, jnp.where(is_weak, grown, 1)


def _cosine(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """The cosines of rows [batch, d]; 0 for a row of zeros."""
  products = jnp.sum(ours * theirs, axis=1)
  squares = jnp.sum(ours**2, axis=1) * jnp.sum(theirs**2, axis=1)
  is_zero = squares == 0
  return jnp.where(
    is_zero, 0, products / jnp.sqrt(jnp.where(is_zero, 1, squares))
  )
