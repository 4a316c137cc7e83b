"""Conflict-averse gradient descent."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers


def cagrad(
  c: _arguments.Scalar = 0.5,
  zero_rows: _arguments.ZeroRows = 'drop',
) -> base.Weighting:
  """Conflict-averse gradient descent (CAGrad).

  The direction near the mean gradient g₀ that helps the worst objective most:

      d = argmax  minᵢ gᵢᵀd   over  ‖d − g₀‖ ≤ c ‖g₀‖

  `solvers.max_min_in_ball` finds it exactly, on `observation.gramian`. c = 0 is
  the mean; for c ≥ 1 no objective gets worse; as c grows, d turns to that of
  MGDA. For c < 1 the rule rests at stationary points of the mean only.

  If zero is in the hull of the gradients, the worst objective cannot gain. If
  the ball then reaches directions that make nothing worse, all of these are
  solutions, and the rule takes the one nearest to g₀, that of `dualproj`.
  TorchJD returns zero there, and whenever the combination of the inner problem
  is 1e4 times shorter than the Jacobian, so that one dead or one very short
  gradient stops training. The authors' code and LibMTL divide the weights by
  1 + c²; here the learning rate takes care of that.

  Properties: permutation_equivariant, scale_invariant, cagrad_ball.

  Args:
    c: c ≥ 0, how far to go from the mean gradient, relative to its length.
    zero_rows: 'drop' ignores zero gradients (the mean still divides by K);
      'keep' takes them for objectives that cannot gain, so that the rule asks
      of the others only that they do not lose.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.cagrad(c=0.5)
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.704, 0.5]

  References:
    B. Liu, X. Liu, X. Jin, P. Stone and Q. Liu, `Conflict-Averse Gradient
    Descent for Multi-task Learning <https://arxiv.org/abs/2110.14048>`_,
    NeurIPS 2021, Eq. 3. The solver is ours.
  """
  _arguments.check('cagrad', _arguments.at_least(0), c=c)
  _arguments.check_choice('cagrad', _arguments.ZERO_ROWS, zero_rows=zero_rows)

  def weigh(observation: base.Observation) -> jax.Array:
    gramian = observation.gramian
    mean = jnp.full_like(gramian[0], 1 / observation.num_objectives)
    ceiling: float | jax.Array = jnp.inf
    if zero_rows == 'keep':
      ceiling = jnp.where(jnp.any(jnp.diagonal(gramian) == 0), 0, jnp.inf)
    return solvers.max_min_in_ball(gramian, mean, c, ceiling=ceiling)

  return base.stateless(weigh, needs='gramian')
