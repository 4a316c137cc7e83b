"""Penalty-based boundary intersection."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def pbi(
  penalty: _arguments.Scalar = 5.0,
  preference: _arguments.Vector | None = None,
  ideal: _arguments.Scalar | _arguments.Vector = 0.0,
) -> base.Weighting:
  """Penalty-based boundary intersection (PBI).

  Minimises the losses along a ray, from the ideal point in the direction of the
  preference, and penalises the distance from that ray:

      f = L - z,   u = p/‖p‖,   d₁ = fᵀu,   d₂ = ‖f - d₁ u‖
      S = d₁ + θ d₂,   w = ∂S/∂L = u + θ (f - d₁ u)/d₂

  θ = `penalty`, p = `preference`, z = `ideal`. At the minimum on the ray the
  losses above z are in the ratio of p. With θ = 0 the weights are u, as with
  `constant`. If θ is large, an objective with less loss than its share along
  the ray has a negative weight, and gets worse. Both parts of w have a fixed
  length, whatever the distance of the losses from the ideal or the ray.

  On the ray d₂ has no gradient, and w = u; here this also holds for losses
  nearer to the ray than their type can tell. (Others add a constant under the
  root, which dominates once losses are as small.)

  Properties: permutation_equivariant, linear_under_scaling, loss_scale_free.

  Args:
    penalty: θ ≥ 0. Larger: nearer to the ray, at the cost of single objectives.
    preference: p ≥ 0, K numbers, that of the primary objective first; by
      default even. Only ratios matter.
    ideal: z, losses that cannot be reached, one number or K of them.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.pbi(penalty=0.5, preference=[0.8, 0.6])
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.5, 1.0]

  References:
    Q. Zhang and H. Li, `MOEA/D: A Multiobjective Evolutionary Algorithm Based
    on Decomposition <https://doi.org/10.1109/TEVC.2007.892759>`_, IEEE
    Transactions on Evolutionary Computation 2007.
  """
  _arguments.check('pbi', _arguments.at_least(0), penalty=penalty)
  _arguments.check_preference('pbi', preference)
  _arguments.check('pbi', _arguments.each(_arguments.finite()), ideal=ideal)

  def weigh(observation: base.Observation) -> jax.Array:
    losses = observation.losses
    p = _arguments.preference_of('pbi', preference, losses)
    z = _arguments.for_each_objective('pbi', 'ideal', ideal, losses)
    limits = jnp.finfo(losses.dtype)
    # Absent objectives have no axis in the space of losses.
    p = jnp.where(observation.has_rows, p, 0)
    u = p / _numerics.nonzero(jnp.linalg.norm(p))
    f = jnp.where(observation.has_rows, losses - z, 0)
    largest = jnp.max(jnp.abs(f))
    # Scale first, so that no square under- or overflows. f may be all zero.
    largest = jnp.where(largest < limits.tiny, 1, largest)
    f = f / largest
    across = f - jnp.sum(f * u) * u
    distance = jnp.linalg.norm(across)
    # On the ray itself, the remainder is rounding of L and z.
    sizes = jnp.abs(losses) + jnp.abs(z)
    sizes = jnp.where(observation.has_rows, sizes, 0) / largest
    off_ray = ~(distance <= 8 * limits.eps * jnp.linalg.norm(sizes))
    return u + penalty * _numerics.divide(across, distance, where=off_ray)

  return base.stateless(weigh, needs='losses')
