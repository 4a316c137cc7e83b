"""Multi-loss balancing (MLB)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import moments
from mimo_jax import nn

SPACE: base.Space = {
  'alpha': {'low': 0.1, 'high': 5.0, 'scale': 'log'},
  'beta': {'low': 1.5, 'high': 20.0, 'scale': 'log'},
}


def make(
  task: base.Task, *, alpha: float = 0.5, beta: float = 10.0
) -> base.Method:
  """Trains on the losses of all outputs; speeds up encoders that are behind.

      L = L_fused + Σ_m L_m,    ∇_m ← k_m ∇_m

  The factors k, see `coefficients`, scale the whole gradient of encoder m and
  of its part of a linear fusion. Nothing is scaled in a fusion that mixes
  modalities. The modalities are compared by their own heads, not by shares of
  the fused logits: by the mean probability of the true class, or in a
  regression by the mean squared error. The heads are the model's `auxiliary`
  ones, whatever the configuration says.

  Without a weighting (`joint`), L is what is learnt; any weighting replaces it.

  With Adam, which ignores the length of a gradient, a factor matters only if it
  changes from step to step.

  Args:
    task: what is trained.
    alpha: α ≥ 0, how soon a lead counts; 0.5 to 5 in the paper's runs.
    beta: the largest speed-up of a modality that is behind; 1 for none, and
      below 1 it is slowed down, too. In the paper's runs 10 on CREMA-D (2 with
      a Conformer), 1 on AVE and 0.5 on UCF.

  The released code for three modalities and for regressions compares a mode
  with the number 2, but the command line gives the word "2". So β is ignored
  there, as with beta=2.0.

  References:
    K. Kontras et al., `Improving Multimodal Learning with Multi-Loss Gradient
    Modulation <https://arxiv.org/abs/2405.07930>`_, BMVC 2024.
  """
  checks.at_least_0('mlb', alpha=alpha)
  checks.above_0('mlb', beta=beta)
  task = common.with_own_weights(task, 1.0, 1.0)
  is_linear = common.adds_shares(task.model)

  def observe(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> dict[str, Any]:
    del state
    own = {name: outputs.logits[name] for name in task.modalities}
    targets = jnp.asarray(batch[task.target])
    if task.is_regression:
      means = {
        name: jnp.mean((value[:, 0] - targets) ** 2)
        for name, value in own.items()
      }
    else:
      means = nn.true_class_scores(own, targets)
    # Repeated to the width of the features, for each of which the fusion's
    # kernel has a row.
    return {
      'scores': {
        name: jnp.full(outputs.features[name].shape[1], mean)
        for name, mean in means.items()
      }
    }

  def modulated(
    updates: optax.Updates, *, scores: dict[str, jax.Array], **_: Any
  ) -> optax.Updates:
    means = jnp.stack([scores[name][0] for name in task.modalities])
    found = coefficients(lag(means, task.is_regression), alpha, beta)
    factors = dict(zip(task.modalities, found, strict=True))
    rows = [
      jnp.broadcast_to(factors[name], scores[name].shape)
      for name in task.modalities
    ]

    def scaled(path: moments.Path, leaf: jax.Array) -> jax.Array:
      name = nn.encoder_of(path)
      if path[0] == 'fusion' and is_linear:
        if path[1:] == ('Dense_0', 'kernel'):  # of all features side by side
          return (jnp.concatenate(rows)[:, None] * leaf).astype(leaf.dtype)
        name = path[1] if path[1] in factors else None
      if name is None:
        return leaf
      return (factors[name] * leaf).astype(leaf.dtype)

    return moments.mapped(scaled, updates)

  return common.on_outputs(
    task,
    observe=observe,
    after=common.stateless(modulated),
    model=task.model.clone(heads='auxiliary'),
  )


def lag(means: jax.Array, are_errors: bool) -> jax.Array:
  """How far each modality is behind the others, r [M]; 1 where all are equal.

  For mean scores s ≥ 0, r_m = (mean of the others' s) / s_m; for errors the
  inverse, r_m = s_m / (mean of the others' s). With one modality it is 1.
  """
  count = means.shape[0]
  if count == 1:
    return jnp.ones_like(means)
  least = jnp.finfo(means.dtype).tiny
  others = (jnp.sum(means) - means) / (count - 1) + least
  return (means + least) / others if are_errors else others / (means + least)


def coefficients(lags: jax.Array, alpha: float, beta: float) -> jax.Array:
  """The factors of the gradients, k [M]; 1 where r = 1.

      k_m = 1 + (β_m - 1) tanh(α (r_m - 1)),    β_m = β if r_m > 1, else 2

  so a modality that is behind gets up to β, and one that is ahead less than 1.
  """
  factors = jnp.where(lags > 1, beta, 2.0) - 1
  return 1 + factors * jnp.tanh(alpha * (lags - 1))
