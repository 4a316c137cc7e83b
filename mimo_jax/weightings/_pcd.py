"""Priority-constrained descent."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers


class PCDState(NamedTuple):
  """State of `pcd`."""

  squares: jax.Array  # [K], running mean of ‖gᵢ‖², v
  step: jax.Array  # [K] int32, steps taken in which it was present, t


def pcd(
  progress: _arguments.Scalar | _arguments.Vector = 0.02,
  decay: float = 0.999,
) -> base.Weighting:
  """Priority-constrained descent (PCD).

  Of the directions along which every other objective makes a minimum of
  progress, the one nearest to the primary gradient:

      g̃ᵢ = gᵢ / √v̂ᵢ
      d̃ = argmin ‖d − g̃₁‖   s.t.   g̃ⱼᵀd ≥ τⱼ ‖g̃ⱼ‖²,  j ≥ 2
      d = ‖g₁‖ d̃ / ‖d̃‖

  v̂ is the bias-corrected running mean of ‖gᵢ‖² with decay β = `decay`, and τ =
  `progress`; the norms come from `observation.gramian`. Without conflicts d is
  the primary gradient. If the demands contradict each other, d is the primary
  gradient, too. If that is zero, so is d.

  As in the published rule, d is stretched to full length even if d̃ is short.
  If a secondary gradient is exactly opposed to the primary one, d points along
  the secondary one, away from the primary.

  The paper adds 1e-8 to v̂. This would change the method for gradients shorter
  than 1e-4, and is left out. A secondary gradient that is zero demands nothing.

  Properties: scale_invariant.

  Args:
    progress: τ in [0, 1], one number or K − 1 of them.
    decay: β in [0, 1).

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.pcd()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.848, 1.095]

  References:
    `Not All Objectives Are Born Equal: Priority-Constrained Descent for
    Hierarchical Multi-Objective Optimization
    <https://arxiv.org/abs/2606.29521>`_, TMLR 2026.
  """
  _arguments.check(
    'pcd', _arguments.each(_arguments.between(0, 1)), progress=progress
  )
  _arguments.check('pcd', _arguments.from_to_below(0, 1), decay=decay)

  def init(num_objectives: int) -> PCDState:
    return PCDState(
      jnp.zeros(num_objectives), jnp.zeros(num_objectives, jnp.int32)
    )

  def update(
    observation: base.Observation, state: PCDState
  ) -> tuple[jax.Array, PCDState]:
    gramian = observation.gramian
    size = observation.num_objectives
    squares = decay * state.squares + (1 - decay) * jnp.diagonal(gramian)
    state = _numerics.keep_rows(
      observation.present,
      PCDState(squares, optax.safe_increment(state.step)),
      state,
    )
    squares, step = state
    if size == 1:
      return jnp.ones_like(observation.losses), state

    form = solvers.cosine_form(gramian)
    eps = jnp.finfo(gramian.dtype).eps
    # 1 − βᵗ without the cancellation that float32 has at β = 0.999.
    log_decay = math.log(decay) if decay > 0 else -math.inf
    corrected = squares / -jnp.expm1(
      jnp.maximum(step, 1).astype(gramian.dtype) * log_decay
    )
    means = jnp.sqrt(corrected) / form.longest  # √v̂, in units of lengths
    means = jnp.where(means > 0, means, 1)
    lengths = jnp.where(form.is_zero, 0, form.lengths / means)  # ‖g̃ᵢ‖
    tau = jnp.asarray(progress, gramian.dtype)
    tau = _arguments.for_each_objective(
      'pcd', 'progress', tau, form.lengths[1:]
    )

    # d̃ = g̃₁ + Σ yⱼ uⱼ with unit vectors u and y ≥ 0; the constraints are
    # uⱼᵀd̃ ≥ τⱼ ‖g̃ⱼ‖. The term added to the diagonal keeps y bounded if the
    # constraints contradict each other.
    cosines = form.cosines[1:, 1:]
    asked = jnp.where(form.is_zero[1:], 0, tau * lengths[1:])
    missing = asked - lengths[0] * form.cosines[1:, 0]
    missing = jnp.where(form.is_zero[1:], 0, missing)
    bounded = cosines + 8 * eps * jnp.eye(size - 1, dtype=gramian.dtype)
    scale = jnp.max(jnp.abs(missing))
    scale = jnp.where(scale > 0, scale, 1)
    y = scale * solvers.non_negative_qp(bounded, missing / scale)
    left = jnp.max(missing - cosines @ y)
    feasible = left <= jnp.sqrt(eps) * scale
    y = jnp.where(feasible, y, 0)

    whole = jnp.concatenate([lengths[:1], y])  # coefficients of u
    square = whole @ form.cosines @ whole  # ‖d̃‖²
    # d̃ is zero up to rounding, or the primary gradient is.
    is_zero = form.is_zero[0] | (
      square <= size * eps * jnp.square(jnp.sum(jnp.abs(whole)))
    )
    stretch = form.lengths[0] / jnp.sqrt(jnp.where(is_zero, 1, square))
    return jnp.where(is_zero, 0, stretch * whole / form.lengths), state

  return base.stateful(init, update, needs='gramian', has_primary=True)
