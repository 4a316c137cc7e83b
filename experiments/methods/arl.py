"""Asymmetric representation learning (ARL)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import encoders

SPACE: base.Space = {
  'gamma': {'low': 1.0, 'high': 8.0, 'scale': 'log'},
  'temperature': {'low': 1.0, 'high': 16.0, 'scale': 'log'},
}


def make(
  task: base.Task,
  *,
  gamma: float = 4.0,
  temperature: float = 8.0,
  warm_up_epochs: float | None = None,
  released: Literal['authors'] | None = None,
) -> base.Method:
  """The encoders learn the faster, the surer they are and the less relied on.

      L = L_fused + γ Σ_m L_m(o_m),    ∇_m ← (1 + w_m) ∇_m

  where ∇_m is the gradient of encoder m. The weights w, see `weights`, draw the
  modalities' shares of the output towards the inverse of their variances. o_m
  is the output of the fusion, which may be any, for modality m alone: the heads
  'alone' of `mimo_jax.nn.LateFusion`. In the warm-up γ is 1 and all w_m are
  1/M. The sum of L_m is the loss 'unimodal', and L is the primary objective. It
  is a sum of 1 + γM losses, and needs a lower learning rate than one of them;
  the authors clip the gradient's norm at 40. On two views of `handwritten`, 600
  steps stay at chance at its learning rate of 0.05; at half of it they reach
  96.6 %, at a quarter 97.1 %.

  Args:
    task: what is trained, on classes.
    gamma: γ ≥ 0 after the warm-up; 4 on CREMA-D, 3 on Kinetics-Sounds, 5 on
      AVE.
    temperature: T ≥ 0, how far the weights are apart; 8 on CREMA-D and 4
      elsewhere.
    warm_up_epochs: the length of the warm-up; 5 in the paper; None: a
      twentieth of the training.
    released: 'authors': the weights are computed but not assigned, so that they
      stay 1/M, and the method is a weighted sum of losses.

  This is the paper's method for two modalities; for more, `weights` extends it.

  References:
    S. Wei, C. Luo and Y. Luo, `Improving Multimodal Learning via Imbalanced
    Learning <https://arxiv.org/abs/2507.10203>`_, ICCV 2025.
  """
  checks.classes(task, 'arl')
  checks.at_least_0('arl', gamma=gamma, temperature=temperature)
  names = task.modalities
  model = task.model.clone(heads='alone')

  warm_up = common.epochs_of(task, warm_up_epochs, 1 / 20)

  def in_warm_up(state: base.TrainState) -> jax.Array:
    return state.step < warm_up * task.steps_per_epoch

  def unimodal(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    # The heads of the outputs may stop gradients.
    logits = model.alone(state.variables, outputs.features, train=True)
    losses = task.losses_of(logits, batch[task.target])
    return {'unimodal': jnp.sum(jnp.stack([losses[name] for name in names]))}

  def factors(
    state: base.TrainState, _: base.Batch, outputs: common.Outputs
  ) -> dict[str, Any]:
    logits = jnp.stack([outputs.logits[name] for name in names])
    found = weights(lax.stop_gradient(logits), temperature)
    is_even = in_warm_up(state) | (released is not None)
    found = 1 + jnp.where(is_even, 1 / len(names), found)
    return {'factors': dict(zip(names, found, strict=True))}

  return common.on_outputs(
    task,
    unimodal,
    {
      'fused': 1.0,
      'unimodal': lambda state: jnp.where(in_warm_up(state), 1.0, gamma),
    },
    observe=factors,
    after=encoders.scaled(),
    model=model,
  )


def weights(logits: jax.Array, temperature: float) -> jax.Array:
  """How much more each encoder learns, w [M], which add up to 1.

      w = softmax over m of T (mean of the others' c) q_m,    q_m ∝ 1/H_m

  from logits [M, batch, C]. c_m is the share of modality m in the output, by
  the sum over classes of the mean |o_m|. H_m is its share of the mean
  entropies, at least 0.6/M, which is 0.3 for two modalities. Both c and q add
  up to 1.
  """
  count = logits.shape[0]
  sizes = jnp.sum(jnp.mean(jnp.abs(logits), axis=1), axis=-1)
  reliance = _shares(sizes)
  log_p = jax.nn.log_softmax(logits)
  entropies = jnp.mean(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1), axis=1)
  sureness = _shares(1 / jnp.maximum(_shares(entropies), 0.6 / count))
  others = (1 - reliance) / max(count - 1, 1)
  return jax.nn.softmax(temperature * others * sureness)


def _shares(values: jax.Array) -> jax.Array:
  """Values ≥ 0, divided by their sum; equal if all are 0."""
  least = jnp.finfo(values.dtype).tiny
  return (values + least) / jnp.sum(values + least)
