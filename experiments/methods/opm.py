"""On-the-fly prediction modulation (OPM)."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common

SPACE: base.Space = {
  'rate': {'low': 0.2, 'high': 0.6},
  'strength': {'low': 0.1, 'high': 1.0},
}


def make(
  task: base.Task,
  *,
  rate: float = 0.5,
  strength: float = 0.5,
  probability: float = 0.7,
  warm_up_epochs: float | None = None,
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """Drops features of modalities that are ahead, before the fusion.

  A batch is modulated with some probability: each row then loses the features
  of modality m with the chance q_m of `rates`, and what is kept is divided by

      θ = 1 - Σ_m d_m q_m / Σ_m d_m

  with the widths d_m of the features, so that the fusion gets as much of them
  on average as without dropping. The fused loss is that of the remaining
  features; the modalities' own outputs are those of all features. Modalities
  are compared by their shares of the fused logits, so the fusion must have
  shares, as for `ogm`.

  Args:
    task: what is trained, on classes.
    rate: q, the chance for a modality that is hardly ahead, from 0 to 1.
    strength: λ ≥ 0, how much the chance grows with the lead.
    probability: that a batch is modulated.
    warm_up_epochs: how long no batch is modulated; 5 of 100 in the released
      code; None: a twentieth of the training.
    released: 'balance_benchmark': a score is divided by the sum of the others';
      with three modalities this is hardly ever above 1.

  The released code has a bracket too many and does not run. It removes rows
  that kept nothing from the batch; there are none, since at least one modality
  is not ahead, and stays. For more than two modalities the paper has no rule;
  here a score is compared with the mean of the others'.

  References:
    Y. Wei, D. Hu, H. Du and J.-R. Wen, `On-the-fly Modulation for Balanced
    Multimodal Learning <https://arxiv.org/abs/2410.11582>`_, TPAMI 2024.
  """
  options = rate, strength, probability, warm_up_epochs
  return common.on_outputs(
    task, dropping(task, 'opm', *options, against_sum=released is not None)
  )


def dropping(
  task: base.Task,
  method: str,
  rate: float,
  strength: float,
  probability: float,
  warm_up_epochs: float | None,
  *,
  against_sum: bool = False,
) -> common.Own:
  """The fused loss of the remaining features; `method` is for messages."""
  checks.classes(task, method)
  checks.from_0_to_1(method, rate=rate, probability=probability)
  checks.at_least_0(method, strength=strength)
  names = task.modalities
  epochs = common.epochs_of(task, warm_up_epochs, 1 / 20)
  warm_up = epochs * task.steps_per_epoch

  def dropped(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> dict[str, Any]:
    targets = jnp.asarray(batch[task.target])
    scores = common.share_scores(task, state, batch, outputs)
    stacked = jnp.stack([scores[name] for name in names])
    chances = rates(stacked, rate, strength, against_sum=against_sum)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    of_batch, of_rows = jax.random.split(key)
    is_drawn = jax.random.uniform(of_batch) < probability
    chances = jnp.where(is_drawn & (state.step >= warm_up), chances, 0)
    left = drop(
      of_rows, outputs.features, dict(zip(names, chances, strict=True))
    )
    fused = task.model.fuse(state.variables, left, train=True)
    return task.losses_of({'fused': fused}, targets)

  return dropped


def drop(
  key: jax.Array,
  features: Mapping[str, jax.Array],
  chances: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
  """Drops the features [batch, d_m] of some rows, and enlarges all others.

  Rows are drawn independently for each modality, with the chances q_m from 0 to
  1 to be dropped, at least one of them below 1.
  """
  widths = {name: value.shape[1] for name, value in features.items()}
  lost = sum(widths[name] * chances[name] for name in features)
  theta = 1 - lost / sum(widths.values())
  keep = {
    name: jax.random.uniform(each, value.shape[:1]) >= chances[name]
    for each, (name, value) in zip(
      jax.random.split(key, len(features)),
      sorted(features.items()),
      strict=True,
    )
  }
  left = common.kept(features, keep)
  return {name: value / theta for name, value in left.items()}


def rates(
  scores: jax.Array, rate: float, strength: float, *, against_sum: bool = False
) -> jax.Array:
  """The chance of each modality to be dropped, q [M].

      q_m = min(q (1 + λ tanh(ρ_m - 1)), 1) if ρ_m > 1, else 0

  with ρ_m = s_m / (mean of the others' s), or their sum, for scores s ≥ 0. At
  least one modality is not ahead, and stays.
  """
  count = scores.shape[0]
  others = jnp.sum(scores) - scores
  others /= 1 if against_sum else max(count - 1, 1)
  is_ahead = (scores > others) & (count > 1)
  lead = scores / jnp.maximum(others, jnp.finfo(scores.dtype).tiny) - 1
  chances = jnp.minimum(rate * (1 + strength * jnp.tanh(lead)), 1)
  return jnp.where(is_ahead, chances, 0)
