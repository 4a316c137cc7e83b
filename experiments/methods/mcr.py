"""Multimodal competition regulariser (MCR)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import alignments
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import divergences
from experiments.methods import reconstructions
from experiments.methods import shuffles
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
  regression J_m is the squared difference of the numbers. In the greedy game
  every encoder raises its own influence and lowers that of each other one,

      R = Σ_m Σ_{j≠m} [J_j(z_m) - J_m(z_m)],

  where J(z_m) has a gradient only through the features of m, and through its
  share of a linear fusion. So the value of R is 0, whatever its gradient, and
  gradients through the probabilities in the original order cancel. In the
  `independent` game R = -Σ_m J_m(z_m), in the `collaborative` one -Σ_m J_m with
  gradients everywhere.

  L_con is the supervised contrastive loss of all modalities' features, see
  `alignments.supervised_contrastive`; in a regression, equal targets are one
  label. L_CEB is the error of reconstructing the features from the fused
  logits, by a network that learns beside the model. It penalises what features
  say beyond these logits. See `reconstructions.loss`.

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
  games = ('greedy', 'independent', 'collaborative')
  checks.option('mcr', game in games, f'one of {games}', game=game)
  task = common.with_own_weights(task, 1.0, own)
  model = task.model.clone(heads='auxiliary')
  apart = (
    divergences.squared_difference
    if task.is_regression
    else divergences.jensen_shannon
  )
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
    orders = shuffles.orders(state, permutations, rows)
    whole = {k: nn.scale_gradient(v, of_rest) for k, v in parts.items()}
    given = fuse(whole)
    total = jnp.zeros(())
    for name in task.modalities:
      scaled = {
        each: nn.scale_gradient(part, of_own if each == name else of_others)
        for each, part in parts.items()
      }

      def influence(
        order: jax.Array, name: str = name, scaled: Any = scaled
      ) -> jax.Array:
        logits = fuse(shuffles.reordered(scaled, name, order))
        return jnp.mean(apart(given, logits))

      total += jnp.mean(jax.vmap(influence)(orders))
    value = 0.0 if game == 'greedy' else -lax.stop_gradient(total)
    return value + total - lax.stop_gradient(total)

  def terms(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    found = {'competition': strength * competition(state, outputs.features)}
    if 'contrast' in names:
      labels = jnp.asarray(batch[task.target])
      stacked = _of_one_width(outputs.features)
      loss = alignments.supervised_contrastive(stacked, labels, temperature)
      found['contrast'] = contrast * loss
    if 'reconstruction' in names:
      loss = reconstructions.loss(state.params[base.BESIDE], outputs)
      found['reconstruction'] = reconstruction * loss
    return found

  # Values of a sweep are tracers, and their losses are never left out.
  factors = {'contrast': contrast, 'reconstruction': reconstruction}
  names = [k for k, v in factors.items() if isinstance(v, jax.core.Tracer) or v]
  primary = dict.fromkeys(('fused', 'competition', *names), 1.0)
  beside = reconstructions.beside(model) if 'reconstruction' in names else None
  return common.on_outputs(task, terms, primary, model=model, beside=beside)


def _parts(
  model: nn.LateFusion,
  state: base.TrainState,
  features: dict[str, jax.Array],
  factor: float,
) -> tuple[dict[str, jax.Array], Any]:
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


def _of_one_width(features: dict[str, jax.Array]) -> jax.Array:
  """Features of all modalities, [M, batch, d]."""
  checks.one_width(
    'mcr',
    features,
    ', or set config.method.contrast = 0.0, which leaves their comparison out',
  )
  return jnp.stack([features[name] for name in sorted(features)])
