"""Multi-objective gradient correction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax.weightings import _shares
from mimo_jax.weightings import _trackers


class MoCoState(NamedTuple):
  """State of `moco`."""

  tracker: base.PyTree  # leaves [K, ...], Y
  shares: jax.Array  # [K], λ


def moco(
  tracker_step: _arguments.Scalar = 0.1,
  step_size: _arguments.Scalar = 0.1,
  regularization: _arguments.Scalar = 0.1,
) -> base.Weighting:
  """Multi-objective gradient correction (MoCo).

  MGDA on running means of the gradients, which are less noisy than the
  gradients of one batch. Each step of training takes one step of projected
  gradient descent:

      Y ← Y − β (Y − J),   Y₀ = 0
      λ ← proj( λ − γ (Y Yᵀ λ + ρ λ) )   onto  λ ≥ 0, Σ λ = 1;   λ₀ = 1/K
      d = Yᵀ λ

  β = `tracker_step`, γ = `step_size`, ρ = `regularization`. The means begin at
  zero, as in the authors' code, so that the first directions are short. γ and ρ
  are in units of the gradients' squared lengths.

  LibMTL takes a softmax in place of the projection, which keeps λ near 1/K for
  ever, and makes each gradient as long as its loss is large.

  Properties: simplex, permutation_equivariant.

  Args:
    tracker_step: β in [0, 1]. Smaller: a longer mean. 1 is this step's
      gradient.
    step_size: γ ≥ 0. Larger: the weights follow faster.
    regularization: ρ ≥ 0. Larger: closer to equal weights.

  Returns:
    A `mimo_jax.Weighting` that returns a `mimo_jax.Direction`; state carries
    the running means, K times the size of params, and the weights.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.moco()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), jacobian=rows)
    >>> state = rule.init(2, params=jnp.zeros(3))
    >>> direction, state = rule.update(observation, state)
    >>> direction.weights.tolist(), direction.updates.tolist()
    ([0.505, 0.495], [0.095, 0.100, 0.100])

  References:
    H. Fernando, H. Shen, M. Liu, S. Chaudhury, K. Murugesan and T. Chen,
    `Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent
    Approach <https://openreview.net/forum?id=dLAYGdKTi2>`_, ICLR 2023.
  """
  _arguments.check('moco', _arguments.between(0, 1), tracker_step=tracker_step)
  _arguments.check(
    'moco',
    _arguments.at_least(0),
    step_size=step_size,
    regularization=regularization,
  )

  def init(num_objectives: int, params: base.PyTree) -> MoCoState:
    return MoCoState(
      tracker=_trackers.zeros('moco', num_objectives, params),
      shares=jnp.full(num_objectives, 1 / num_objectives, float),
    )

  def update(
    observation: base.Observation, state: MoCoState
  ) -> tuple[base.Direction, MoCoState]:
    tracker = jax.tree.map(
      lambda mean, leaf: mean - tracker_step * (mean - leaf),
      state.tracker,
      observation.jacobian,
    )
    present = observation.present
    tracker = _numerics.keep_rows(present, tracker, state.tracker)
    gramian = jacobian.gramian(tracker)
    weights, shares = _shares.descended(
      state.shares, gramian, present, step_size, regularization
    )
    direction = base.Direction(jacobian.combine(tracker, weights), weights)
    return direction, MoCoState(tracker, shares)

  return base.stateful(init, update, needs='jacobian')
