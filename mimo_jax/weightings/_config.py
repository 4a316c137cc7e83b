"""Conflict-free inverse gradients."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers


def config(preference: _arguments.Vector | None = None) -> base.Weighting:
  """Conflict-free training by inverse gradients (ConFIG).

  The direction v whose cosines with the gradients are in given ratios. Its
  length is the sum of the gradients' projections on it:

      x = U⁺ p,    v = x / ‖x‖,    d = (Σᵢ gᵢᵀv) v

  The rows of U are the unit gradients and p = `preference`. With their cosines
  C, from `observation.gramian`, x = Uᵀ C⁺p. On independent gradients and with
  the default p all cosines are equal and positive, so that no objective gets
  worse. On dependent ones x is the least-squares solution, and may conflict.
  A zero gradient is ignored. Gradients that cancel (multiples of one vector, of
  both signs, with the same preference on either side) give zero, where TorchJD
  keeps rounding noise.

  Properties: impartial, permutation_equivariant, scale_invariant,
    linear_under_scaling.

  Args:
    preference: p ≥ 0, K numbers, that of the primary objective first; by
      default all equal. d points along the unit gradients in proportion to it.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.config()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.226, 0.844]

  References:
    Q. Liu et al., `ConFIG: Towards Conflict-free Training of Physics Informed
    Neural Networks <https://arxiv.org/abs/2408.11104>`_, ICLR 2025, Eq. 2.
  """
  _arguments.check_preference('config', preference)

  def weigh(observation: base.Observation) -> jax.Array:
    form = solvers.cosine_form(observation.gramian)
    p = _arguments.preference_of('config', preference, form.lengths)
    p = jnp.where(form.is_zero, 0, p / jnp.max(p))
    solution, _ = solvers.least_squares(form.cosines, p)
    along = form.cosines @ solution  # uᵢᵀx
    square = solution @ along  # ‖x‖²
    # If x is zero up to rounding, no direction has these cosines. Nor is there
    # one if p is orthogonal to the range of C: then x is only rounding errors.
    rounding = observation.num_objectives * jnp.finfo(square.dtype).eps
    has_direction = ~(
      (square <= rounding * jnp.sum(jnp.abs(solution)) ** 2)
      | (jnp.max(jnp.abs(along)) <= 8 * rounding)
    )
    lengths = jnp.where(form.is_zero, 0, form.lengths)
    length = _numerics.divide(lengths @ along, square, where=has_direction)
    return jnp.where(has_direction, length * solution / form.lengths, 0)

  return base.stateless(weigh, needs='gramian')
