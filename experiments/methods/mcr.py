"""Multimodal competition regulariser (MCR)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import copies
from experiments.methods import means
from mimo_jax import nn

SPACE: base.Space = {'strength': {'low': 0.001, 'high': 1.0, 'scale': 'log'}}

Game = Literal['greedy', 'independent', 'collaborative']


def make(
  task: base.Task,
  *,
  strength: float = 0.1,
  game: Game = 'greedy',
  own: float = 1.0,
  contrast: float = 1.0,
  reconstruction: float = 0.0,
  temperature: float = 0.5,
  permutations: int = 32,
) -> base.Method:
  """Modalities compete for their influence on the fused output.

      L = L_fused + λ_u Σ_m L_m + λ R + λ_c L_con + λ_b L_CEB

  The influence of modality m is J_m, the Jensen-Shannon divergence of the fused
  probabilities from those with the features of m reordered in the batch, as a
  mean over rows and random orders. Nothing is encoded again: it takes P fusions
  per modality, and none if the fused logits are a sum of shares. In a
  regression J_m is the squared difference of the numbers, as in the released
  code. It has no upper bound, so that training can diverge there with the
  default λ; 0.01 is safer. In the greedy game every encoder raises its own
  influence and lowers that of each other one,

      R = Σ_m Σ_{j≠m} [J_j(z_m) - J_m(z_m)],

  where J(z_m) has a gradient only through the features of m, and through its
  share of a linear fusion. So the value of R is 0, whatever its gradient, and
  gradients through the probabilities in the original order cancel. In the
  `independent` game R = -Σ_m J_m(z_m), in the `collaborative` one -Σ_m J_m with
  gradients everywhere.

  L_con is the `supervised_contrastive` loss of all modalities' features; in a
  regression, equal targets are one label. L_CEB is the error of reconstructing
  the features z from the fused logits o, by a network that learns beside the
  model. It penalises what features say beyond these logits:

      L_CEB = mean over rows and entries of (z - relu(sg(o) A) B)²

  R, L_con and L_CEB are parts of the primary objective, as the losses
  'competition', 'contrast' and 'reconstruction'. The heads are the model's
  `auxiliary` ones, whatever the configuration says. Without a weighting
  (`joint`), the weights are 1 and λ_u; a weighting replaces them.

  Args:
    task: what is trained.
    strength: λ ≥ 0: 0.1 on CREMA-D, 0.01 on AVE, 0.001 on UCF.
    game: 'greedy', 'independent' or 'collaborative'.
    own: λ_u ≥ 0: 1, or 0.01 with pretrained uni-modal encoders.
    contrast: λ_c ≥ 0; 0 leaves the loss out, for features of several widths.
    reconstruction: λ_b ≥ 0: 1 for transformers; 0 leaves the loss out.
    temperature: of the contrastive loss, above 0.
    permutations: P, the number of orders.

  The released code encodes a second time, in evaluation mode, for the reordered
  features; here they are those of training. With three modalities it also
  reorders two at once; here it is always one. Its regressions have no
  contrastive loss. For two modalities and classes it logs R and L_con without
  learning from them, as with strength=0.0 and contrast=0.0; it learns from
  L_CEB.

  References:
    K. Kontras et al., `Balancing Multimodal Training Through Game-Theoretic
    Regularization <https://arxiv.org/abs/2411.07335>`_, NeurIPS 2025.
  """
  checks.at_least_0('mcr', strength=strength, own=own, contrast=contrast)
  checks.at_least_0('mcr', reconstruction=reconstruction)
  checks.above_0('mcr', temperature=temperature, permutations=permutations)
  task = common.with_own_weights(task, 1.0, own)
  model = task.model.clone(heads='auxiliary')
  apart = _squared_difference if task.is_regression else _jensen_shannon
  others = len(task.modalities) - 1
  # The factors of the gradients of each J_m: those into m, into the others, and
  # all that flow through the original order or into a fusion that mixes.
  of_own, of_others, of_rest = {
    'greedy': (-float(others), 1.0, 0.0),
    'independent': (-1.0, 0.0, -1.0),
    'collaborative': (-1.0, -1.0, -1.0),
  }[game]

  def competition(
    state: base.TrainState, features: dict[str, jax.Array]
  ) -> jax.Array:
    parts, fuse = _parts(model, state, features, of_rest)
    rows = next(iter(features.values())).shape[0]
    orders = common.orders(state, permutations, rows)
    whole = {k: nn.scale_gradient(v, of_rest) for k, v in parts.items()}
    given = fuse(whole)

    def influence(name: str) -> jax.Array:
      scaled = {
        each: nn.scale_gradient(part, of_own if each == name else of_others)
        for each, part in parts.items()
      }

      def with_order(order: jax.Array) -> jax.Array:
        logits = fuse({**scaled, name: scaled[name][order]})
        return jnp.mean(apart(given, logits))

      return jnp.mean(jax.vmap(with_order)(orders))

    total = sum(map(influence, task.modalities), start=jnp.zeros(()))
    value = 0.0 if game == 'greedy' else -lax.stop_gradient(total)
    return value + total - lax.stop_gradient(total)

  def terms(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    found = {'competition': strength * competition(state, outputs.features)}
    if 'contrast' in names:
      labels = jnp.asarray(batch[task.target])
      advice = (
        ', or set config.method.contrast = 0.0, which leaves their comparison'
        ' out'
      )
      checks.one_width('mcr', outputs.features, advice)
      stacked = jnp.stack([outputs.features[k] for k in task.modalities])
      loss = supervised_contrastive(stacked, labels, temperature)
      found['contrast'] = contrast * loss
    if 'reconstruction' in names:
      loss = _reconstruction(state.params[base.BESIDE], outputs)
      found['reconstruction'] = reconstruction * loss
    return found

  # Values of a sweep are tracers, and their losses are never left out.
  factors = {'contrast': contrast, 'reconstruction': reconstruction}
  names = [k for k, v in factors.items() if isinstance(v, jax.core.Tracer) or v]
  primary = dict.fromkeys(('fused', 'competition', *names), 1.0)
  changes: dict[str, Any] = {'model': model}
  if 'reconstruction' in names:
    changes['beside'] = functools.partial(_network, model)
  return common.on_outputs(task, terms, primary, **changes)


def _parts(
  model: nn.LateFusion,
  state: base.TrainState,
  features: dict[str, jax.Array],
  factor: float,
) -> tuple[dict[str, jax.Array], Callable[..., jax.Array]]:
  """What to reorder, features or shares, and its function to the logits."""
  if common.adds_shares(model):
    shares = model.shares(state.variables, features)
    return shares, lambda parts: sum(parts[name] for name in sorted(parts))
  variables = {
    **state.variables,
    'params': jax.tree.map(
      lambda leaf: nn.scale_gradient(leaf, factor), state.params
    ),
  }
  return features, lambda parts: model.fuse(variables, parts, train=True)


def supervised_contrastive(
  features: jax.Array, labels: jax.Array, temperature: float
) -> jax.Array:
  """The supervised contrastive loss (NT-Xent) of features of all modalities.

      -mean_i mean_{p: y_p = y_i} log( exp(s_ip/τ) / Σ_{a≠i} exp(s_ia/τ) )

  with cosines s of the M N features, and p ≠ i.

  Args:
    features: [M, N, d].
    labels: [N], classes or numbers.
    temperature: τ.
  """
  count, rows, width = features.shape
  flat = features.reshape(count * rows, width)
  squares = jnp.sum(flat**2, axis=1, keepdims=True)
  # All cosines of a row of zeros are 0, and it has no gradient.
  is_zero = squares == 0
  length = jnp.sqrt(jnp.where(is_zero, 1, squares))
  flat = jnp.where(is_zero, 0, flat / length)
  is_self = jnp.eye(count * rows, dtype=bool)
  scores = jnp.where(is_self, -jnp.inf, flat @ flat.T / temperature)
  labels = jnp.tile(labels, count)
  is_positive = (labels[:, None] == labels[None]) & ~is_self
  log_shares = jax.nn.log_softmax(scores, axis=1)
  return -jnp.mean(means.of(log_shares, is_positive, axis=1))


def _jensen_shannon(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½ (p + q), of logits [..., C]: [...]."""
  log_p, log_q = jax.nn.log_softmax(ours), jax.nn.log_softmax(theirs)
  log_middle = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
  of_p = jnp.exp(log_p) * (log_p - log_middle)
  of_q = jnp.exp(log_q) * (log_q - log_middle)
  return jnp.sum(of_p + of_q, axis=-1) / 2


def _squared_difference(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """The squared difference of numbers [..., 1]: [...]."""
  return (ours[..., 0] - theirs[..., 0]) ** 2


def _network(
  model: nn.LateFusion, state: base.TrainState, batch: base.Batch
) -> dict[str, jax.Array]:
  """Draws 'hidden' [C, d] and 'features' [d, Σ d_m], with d the largest d_m.

  As in other dense layers, the variance of a kernel is one over the number of
  its inputs.
  """
  features_of = functools.partial(common.features_of, model)
  features = jax.eval_shape(features_of, state.variables, batch)
  widths = [value.shape[-1] for value in features.values()]
  first, second = jax.random.split(copies.key_of(state, 0))
  draw = jax.nn.initializers.lecun_normal()
  return {
    'hidden': draw(first, (model.num_classes, max(widths))),
    'features': draw(second, (max(widths), sum(widths))),
  }


def _reconstruction(
  network: dict[str, jax.Array], outputs: common.Outputs
) -> jax.Array:
  """L_CEB; its gradient flows through features and the network only."""
  names = sorted(outputs.features)
  whole = jnp.concatenate([outputs.features[name] for name in names], axis=1)
  logits = lax.stop_gradient(outputs.logits['fused'])
  found = jax.nn.relu(logits @ network['hidden']) @ network['features']
  return jnp.mean((whole - found) ** 2)
