"""Impartial multi-task learning, gradient balance."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers


def imtl_g(flip: bool = False) -> base.Weighting:
  """Impartial multi-task learning, gradient balance (IMTL-G).

  The affine combination with the same projection on every unit gradient:

      uᵢᵀ Jᵀa equal for all i,   Σ aᵢ = 1,     uᵢ = gᵢ / ‖gᵢ‖

  With n the lengths of the gradients and C their cosines, from
  `observation.gramian`, a is proportional to C⁺1 / n. Weights may be negative.
  With three objectives or more the common projection may be negative, too; then
  d makes every objective worse. That is the published rule; `flip` turns such a
  direction around.

  If the primary loss is exactly the mean of the others, so is its gradient.
  Then, as a rule, zero is the only point with equal projections: the weights
  are zero, and nothing is trained. Give `imtl_g` the uni-modal losses alone, or
  take a rule that does not ask for equality, such as `upgrad`.

  If 1 is not in the range of C (opposed gradients, more independent demands
  than dimensions), the only such direction is zero, and so are the weights.
  TorchJD inverts G instead, and returns rounding noise at full length there
  (−5g for the rows g, −2g). LibMTL divides by zero on a zero gradient, which is
  ignored here.

  Properties: impartial, permutation_equivariant, scale_invariant.

  Args:
    flip: whether to turn a direction of ascent around, so that Σ aᵢ = −1.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.imtl_g()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.592, 0.408]

  References:
    L. Liu et al., `Towards Impartial Multi-task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021, Eq. 4.
  """
  _arguments.check_choice('imtl_g', (False, True), flip=flip)

  def weigh(observation: base.Observation) -> jax.Array:
    form = solvers.cosine_form(observation.gramian)
    ones = jnp.where(form.is_zero, 0, jnp.ones_like(form.lengths))
    solution, error = solvers.least_squares(form.cosines, ones)
    eps = jnp.finfo(solution.dtype).eps
    size = observation.num_objectives
    # Feasible if the projections, C z, are in fact equal.
    feasible = error <= jnp.sqrt(eps)
    shares = solution / form.lengths
    total = jnp.sum(shares)
    # If the sum is zero, the point with equal projections is at infinity.
    feasible &= jnp.abs(total) > size * eps * jnp.sum(jnp.abs(shares))
    if flip:
      total = jnp.abs(total)
    weights = _numerics.divide(shares, total, where=feasible)
    return _numerics.nan_unless(jnp.isfinite(error), weights)

  return base.stateless(weigh, needs='gramian')
