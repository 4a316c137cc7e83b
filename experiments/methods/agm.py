"""Adaptive gradient modulation (AGM)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {'alpha': {'low': 0.1, 'high': 10.0, 'scale': 'log'}}

_LEAST_PROBABILITY = 1e-8
_LARGEST_EXPONENT = 10.0  # before alpha


class RunningScores(NamedTuple):
  """The mean of the scores over all steps so far."""

  mean: jax.Array  # [M]
  steps: jax.Array  # [] int32


def make(
  task: base.Task,
  *,
  alpha: float = 1.0,
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """Scales the gradients that flow into each modality's part of the logits.

  The part o_m is the Shapley value of modality m in the fused logits, where
  modalities that are absent have the features of a zero input. The parts add up
  to the fused logits, for any fusion and any number of modalities. The gradient
  of the fused loss that flows into o_m is multiplied by `coefficients`, from
  the scores s_m: the mean of -log p of the true class by o_m alone, with p at
  least 1e-8.

  This is the authors' code for two modalities and the paper's formula for more.
  BalanceBenchmark has τ - r the other way round, which slows down the weak
  modality, and scales the encoders' gradients only. The authors' code also
  clips the gradient if one of the head's entries is large;
  `config.gradient_transforms` can do that.

  Args:
    task: what is trained, on classes.
    alpha: how much modalities are slowed down or sped up.
    released: 'balance_benchmark': does as BalanceBenchmark does.

  References:
    H. Li et al., `Boosting Multi-modal Model Performance with Adaptive Gradient
    Modulation <https://arxiv.org/abs/2308.07686>`_, ICCV 2023.
  """
  checks.classes(task, 'agm')
  checks.several(task, 'agm')
  count = len(task.modalities)

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, _: Any
  ) -> tuple[base.Losses, base.Seen]:
    outputs = common.forward(task.model, state, batch, key)
    targets = jnp.asarray(batch[task.target])
    zeros = {name: jnp.zeros_like(batch[name][:1]) for name in task.modalities}
    absent = common.features_of(task.model, state.variables, zeros)
    _, by_modality = nn.shapley_outputs(
      lambda features: task.model.fuse(state.variables, features, train=True),
      outputs.features,
      {
        name: jnp.broadcast_to(absent[name], features.shape)
        for name, features in outputs.features.items()
      },
    )
    parts = jnp.stack([by_modality[name] for name in task.modalities])
    sure = jnp.maximum(common.sureness(parts, targets), _LEAST_PROBABILITY)
    scores = jnp.mean(-jnp.log(sure), axis=1)
    running: RunningScores = state.memory
    if released:
      factors = coefficients(running.mean, scores, alpha)
      features = {
        name: nn.scale_gradient(outputs.features[name], factor)
        for name, factor in zip(task.modalities, factors, strict=True)
      }
      fused = task.model.fuse(state.variables, features, train=True)
    else:
      factors = coefficients(scores, running.mean, alpha)
      scaled = [nn.scale_gradient(parts[i], factors[i]) for i in range(count)]
      fused = sum(scaled[1:], start=scaled[0])
    logits = outputs.logits | {'fused': fused}
    steps = running.steps + 1
    mean = running.mean + (scores - running.mean) / steps
    return (
      task.losses_of(logits, targets),
      base.Seen(outputs.model_state, RunningScores(mean, steps)),
    )

  def init(state: base.TrainState, _: base.Batch) -> base.TrainState:
    nothing = RunningScores(jnp.zeros(count), jnp.zeros((), jnp.int32))
    return state._replace(memory=nothing)

  return common.on_outputs(task, losses=losses, init=init)


def coefficients(
  scores: jax.Array, running: jax.Array, alpha: float
) -> jax.Array:
  """The factors of the gradients, [M]; 1 where r = τ.

      r_m = exp(-M/(M-1) (s_m - mean s)),    τ_m likewise of running means
      k_m = exp(α min(τ_m - r_m, 10))

  With two modalities r_a = exp(s_v - s_a). A low score means a strong modality.
  One that is further ahead of the others than before has r above τ, and is
  slowed down. Running means are over the steps before, and 0 at first.
  """
  count = scores.shape[0]

  def strength(values: jax.Array) -> jax.Array:
    return jnp.exp(-count / (count - 1) * (values - jnp.mean(values)))

  difference = strength(running) - strength(scores)
  return jnp.exp(alpha * jnp.minimum(difference, _LARGEST_EXPONENT))
