"""Projection on the cone of directions that conflict with no gradient."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics
from mimo_jax.solvers import _cosine_form
from mimo_jax.solvers import _non_negative_qp
from mimo_jax.solvers import _products


@_products.full_precision
def dual_cone(gramian: jax.Array, lower: jax.Array) -> jax.Array:
  """Weights of the projection of Jᵀu on the dual cone {d : J d ≥ 0}.

      v* = argmin  vᵀ G v   over  v ≥ u,     d = Jᵀv*

  Certificate: v ≥ u, G v ≥ 0 and (v − u)ᵀ G v = 0. The problem is solved on
  cosines C: with n the lengths of the rows, y = n∘(v − u) ≥ 0 minimises
  ½ yᵀC y + (C (n∘u))ᵀ y. So it is exact however much the lengths differ, and
  needs no regularisation.

  Args:
    gramian: G, [K, K], inner products of the rows of J.
    lower: u, [K], the weights of the vector to project.

  Returns:
    v, [K], at least u. It is not unique if rows are dependent, but Jᵀv always
    is. A row of length zero keeps its uᵢ. NaN if G is not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> solvers.dual_cone(rows @ rows.T, jnp.array([0.5, 0.5])).tolist()
    [0.611, 0.5]
  """
  form = _cosine_form.cosine_form(gramian)
  scaled = jnp.where(form.is_zero, 0, form.lengths * lower)
  linear = -form.cosines @ scaled
  # If all are zero, the vector to project is zero already.
  size = _numerics.nonzero(jnp.max(jnp.abs(linear)))
  excess = size * _non_negative_qp.non_negative_qp(form.cosines, linear / size)
  weights = lower + excess / form.lengths
  return _numerics.nan_unless(jnp.all(jnp.isfinite(gramian)), weights)
