"""Dual-balancing multi-task learning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax.weightings import _trackers


class DBMTLState(NamedTuple):
  """State of `db_mtl`."""

  tracker: base.PyTree  # leaves [K, ...], B before its correction
  step: jax.Array  # [] int32, steps taken
  remembered: jax.Array  # [K], the product of its βₖ so far


def db_mtl(
  decay: _arguments.Scalar = 0.9, decay_power: _arguments.Scalar = 0.0
) -> base.Weighting:
  """Dual-balancing multi-task learning (DB-MTL).

  The rule balances losses by taking logarithms. It balances the gradients of
  these by making their running means equally long, as long as the longest:

      hᵢ = ∇ log Lᵢ = gᵢ / Lᵢ
      Bᵢ ← βₖ Bᵢ + (1 − βₖ) hᵢ,   B₀ = 0,   βₖ = β / k^σ,   k = 1, 2, ...
      d = Σᵢ aᵢ B̂ᵢ,   aᵢ = maxⱼ ‖Bⱼ‖ / ‖Bᵢ‖,   B̂ = B / (1 − β₁ ⋯ βₖ)

  β = `decay`, σ = `decay_power`. The weights in the state are aᵢ / Lᵢ, for
  logging; with β = 0 they are those of the gradients.

  Other codes use B in place of the corrected mean B̂, which makes the first step
  1 − β of its length, 0.1 by default. They also add 1e-8 to denominators. Here
  a gradient whose mean is zero has weight 0, and hᵢ = 0 for a loss that is not
  positive and has no logarithm. A gradient that is nearly zero is made as long
  as the others, even if it is noise.

  Properties: permutation_equivariant, scale_invariant, unit_free.

  Args:
    decay: β from 0 to below 1. Larger: longer means.
    decay_power: σ ≥ 0. Larger: the means forget faster as training goes on.

  Returns:
    A `mimo_jax.Weighting` that returns a `mimo_jax.Direction`; state carries
    the running means, K times the size of params, and the number of steps.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.db_mtl()
    >>> rows = jnp.array([[-3.0, 0.0, 4.0], [6.0, 0.0, 8.0]])
    >>> losses = jnp.array([1.0, 0.5])
    >>> observation = mimo_jax.Observation(losses, jacobian=rows)
    >>> state = rule.init(2, params=jnp.zeros(3))
    >>> direction, state = rule.update(observation, state)
    >>> direction.weights.tolist(), direction.updates.tolist()
    ([4.0, 2.0], [0.0, 0.0, 32.0])

  References:
    B. Lin et al., `Dual-Balancing for Multi-Task Learning
    <https://arxiv.org/abs/2308.12029>`_, 2023.
  """
  _arguments.check('db_mtl', _arguments.from_to_below(0, 1), decay=decay)
  _arguments.check('db_mtl', _arguments.at_least(0), decay_power=decay_power)

  def init(num_objectives: int, params: base.PyTree) -> DBMTLState:
    return DBMTLState(
      tracker=_trackers.zeros('db_mtl', num_objectives, params),
      step=jnp.zeros((), jnp.int32),
      remembered=jnp.ones(num_objectives),
    )

  def update(
    observation: base.Observation, state: DBMTLState
  ) -> tuple[base.Direction, DBMTLState]:
    losses = observation.losses
    slopes = _numerics.divide(1, losses, where=losses > 0)
    share = decay / (state.step.astype(losses.dtype) + 1) ** decay_power

    def move(mean: jax.Array, leaf: jax.Array) -> jax.Array:
      slope = _numerics.for_each_row(slopes, leaf)
      return mean + (1 - share) * (slope * leaf - mean)

    tracker = jax.tree.map(move, state.tracker, observation.jacobian)
    present = observation.present
    moved = DBMTLState(
      tracker, optax.safe_increment(state.step), state.remembered * share
    )
    moved = _numerics.keep_rows(present, moved, state)
    lengths = jnp.sqrt(_trackers.squared_lengths(moved.tracker))
    lengths = jnp.where(present, lengths, 0)
    ratios = _numerics.divide(jnp.max(lengths), lengths)
    corrected = _numerics.divide(ratios, 1 - moved.remembered)
    direction = base.Direction(
      updates=jacobian.combine(moved.tracker, corrected),
      weights=ratios * slopes,
    )
    return direction, moved

  return base.stateful(init, update, needs='jacobian')
