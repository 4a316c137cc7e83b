"""MIMO: the worst modality first, then the fused loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


class MIMOState(NamedTuple):
  """State of `mimo` with schedules."""

  step: jax.Array  # [] int32, steps taken


def mimo(
  penalty: _numerics.ScalarOrSchedule = 1.0,
  temperature: _numerics.ScalarOrSchedule = 1.0,
) -> base.Weighting:
  """Balanced multi-modal learning by multi-objective optimisation (MIMO).

  The aim is to make the worst modality as good as it can be and, among those
  solutions, to minimise the fused loss F₀:

      min F₀(θ)   subject to   θ ∈ argmin max_m F_m(θ),   m = 1..M

  The rule descends on a penalised and smoothed form of it:

      Φ  = F₀ + λ μ log( (1/M) Σ_m exp(F_m/μ) )
      ∇Φ = ∇F₀ + λ Σ_m π_m ∇F_m,   π = softmax(F/μ)

  λ = `penalty`, μ = `temperature`, M = K − 1. The weights are 1 for the
  primary objective and λ π_m for modality m. They depend on the K loss values
  only, so a step costs one backward pass, like joint training. μ → 0 puts all
  of λ on the worst modality, μ → ∞ spreads it evenly. Adding a constant to
  every F_m changes nothing. With a single modality its weight is λ; without
  any, only the primary objective remains.

  The paper's abstract states the problem, the penalty and the smoothing; the
  formulas here are our derivation from it.

  A penalty that shrinks to 0 during training was measured on synthetic
  modalities, tuned (`experiments/reports`). Against a constant penalty it gains
  up to 1.9 points of accuracy where one modality is slow to learn, and 0.1 to
  0.5 where none is slow. It loses 10 where modalities tell the class only
  together. In a pilot study, a growing penalty hurt. Subtracting the attainable
  loss from each modality's loss changed the accuracy of the fused output by at
  most 0.1 points, either way.

  Properties: linear_under_scaling.

  Args:
    penalty: λ ≥ 0, or a schedule `step -> λ`. Larger: the worst modality
      matters more relative to the fused loss. 0 is joint training.
    temperature: μ > 0, in units of the loss, or a schedule `step -> μ`.
      Larger: the other modalities take a larger share of the penalty. Values
      of 1 and below are for losses that are means over the batch; with sums,
      the worst modality would take all. A temperature relative to the losses
      hardly differs (see the guide).

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.mimo(penalty=2.0, temperature=0.5)
    >>> losses = jnp.array([0.3, 0.2, 0.9])  # fused, audio, visual
    >>> weights, _ = rule.update(mimo_jax.Observation(losses), rule.init(3))
    >>> weights.tolist()
    [1.0, 0.396, 1.604]

  References:
    H. Fernando et al., `arXiv 2511.06686
    <https://arxiv.org/abs/2511.06686>`_, 2025, for the idea.
  """
  _arguments.check(
    'mimo', _arguments.or_schedule(_arguments.at_least(0)), penalty=penalty
  )
  _arguments.check(
    'mimo', _arguments.or_schedule(_arguments.above(0)), temperature=temperature
  )

  def weigh(observation: base.Observation, step: jax.Array | int) -> jax.Array:
    losses = observation.losses
    if losses.shape[0] == 1:  # no modality beside the primary objective
      return jnp.ones_like(losses)
    shares = _numerics.softmax(
      losses[1:],
      _numerics.value_at(temperature, step),
      where=observation.has_rows[1:],
    )
    others = _numerics.value_at(penalty, step) * shares
    return jnp.concatenate([jnp.ones_like(losses[:1]), others])

  if not callable(penalty) and not callable(temperature):
    return base.stateless(
      lambda observation: weigh(observation, 0),
      needs='losses',
      has_primary=True,
    )

  def init(_: int) -> MIMOState:
    return MIMOState(step=jnp.zeros((), jnp.int32))

  def update(
    observation: base.Observation, state: MIMOState
  ) -> tuple[jax.Array, MIMOState]:
    return weigh(observation, state.step), MIMOState(
      optax.safe_increment(state.step)
    )

  return base.stateful(init, update, needs='losses', has_primary=True)
