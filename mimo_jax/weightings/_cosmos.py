"""Linear scalarization that keeps the losses at the angle of a preference."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def cosmos(
  penalty: _arguments.Scalar = 1.0,
  preference: _arguments.Vector | None = None,
) -> base.Weighting:
  """Linear scalarization with a cosine penalty (COSMOS).

  A weighted sum of the losses, minus the cosine of the angle between the losses
  and the preference. The cosine draws the losses towards the ray along the
  preference:

      S = rᵀL - λ cos(r, L)
      w = ∂S/∂L = r - λ/‖L‖ ( r/‖r‖ - cos(r, L) L/‖L‖ )

  λ = `penalty`, r = `preference`. With λ = 0 the weights are r, as with
  `constant`. An objective whose loss is smaller than its share along r gets
  less weight, and with a large λ/‖L‖ a negative one. The sum grows with the
  unit of the losses, and the cosine does not: the smaller the losses, the more
  the angle matters.

  The authors draw r anew from a Dirichlet distribution at every step, and give
  it to the network, which learns all trade-offs at once. Here it is fixed. If
  all losses are 0, there is no angle, and the weights are r; the authors' 1e-8
  in the norm is not needed.

  Properties: permutation_equivariant, linear_under_scaling.

  Args:
    penalty: λ ≥ 0. Larger: the angle matters more than the sum.
    preference: r ≥ 0, K numbers, that of the primary objective first; by
      default 1/K each. Not normalised.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.cosmos(preference=[0.5, 0.5])
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.6, 0.8]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.387, 0.585]

  References:
    M. Ruchte and J. Grabocka, `Scalable Pareto Front Approximation for Deep
    Multi-Objective Learning <https://arxiv.org/abs/2103.13392>`_, ICDM 2021.
  """
  _arguments.check('cosmos', _arguments.at_least(0), penalty=penalty)
  _arguments.check_preference('cosmos', preference)

  def weigh(observation: base.Observation) -> jax.Array:
    losses = observation.losses
    r = _arguments.preference_of('cosmos', preference, losses)
    # Absent objectives have no axis in the space of losses.
    r = jnp.where(observation.has_rows, r, 0)
    losses = jnp.where(observation.has_rows, losses, 0)
    largest = jnp.max(jnp.abs(losses))
    # Triggers if all losses are zero: then there is no angle.
    zero = largest < jnp.finfo(losses.dtype).tiny
    largest = jnp.where(zero, 1, largest)
    # Scale first, so that no square under- or overflows.
    scaled = jnp.where(zero, 1, losses / largest)
    length = jnp.linalg.norm(scaled)
    along_r = r / _numerics.nonzero(jnp.linalg.norm(r))
    along_losses = scaled / length
    cosine = jnp.sum(along_r * along_losses)
    slope = (along_r - cosine * along_losses) / length / largest
    return r - penalty * jnp.where(zero, 0, slope)

  return base.stateless(weigh, needs='losses')
