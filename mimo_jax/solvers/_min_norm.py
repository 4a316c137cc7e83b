"""The point of a convex hull that is nearest to the origin."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics
from mimo_jax.solvers import _cosine_form
from mimo_jax.solvers import _non_negative_qp
from mimo_jax.solvers import _products


@_products.full_precision
def min_norm(gramian: jax.Array, *, drop_zero_rows: bool = False) -> jax.Array:
  """Convex weights of the shortest vector in the hull of K vectors.

      a* = argmin  aᵀ G a   over  a ≥ 0, Σ a = 1

  Certificate: the gap aᵀGa − minᵢ (Ga)ᵢ is zero at a*, and bounds the squared
  distance of Jᵀa from the shortest vector.

  With nᵢ = √Gᵢᵢ, cosines C = diag(n)⁻¹ G diag(n)⁻¹ and c = min(n)/n, the
  minimiser is a = (c∘x)/(cᵀx) where x ≥ 0 minimises ½ xᵀ(C + ccᵀ)x − cᵀx. This
  problem is bounded and of order one however much the lengths differ. So
  float32 is exact for rows of lengths 1e-3 and 1e3 together, and the result
  does not depend on the scale of G.

  Args:
    gramian: G, [K, K], inner products of the vectors. If there are vectors of
      length zero, they are the shortest ones and share all weight equally.
    drop_zero_rows: whether to give them weights of zero instead, unless all
      vectors are zero.

  Returns:
    a, [K]. It is not unique if the vectors are affinely dependent, but Jᵀa
    always is. NaN if G is not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> solvers.min_norm(rows @ rows.T).tolist()
    [0.6, 0.4]

  References:
    P. Wolfe, Finding the nearest point in a polytope, Mathematical
    Programming 11, 1976, for the problem; the change of variables is ours.
  """
  form = _cosine_form.cosine_form(gramian)
  shortest = jnp.min(jnp.where(form.is_zero, jnp.inf, form.lengths))
  # Zero vectors are left out of the problem, even if there are no others.
  inverse = jnp.where(form.is_zero, 0, shortest / form.lengths)
  x = _non_negative_qp.non_negative_qp(
    form.cosines + inverse[:, None] * inverse[None, :], inverse
  )
  weights = inverse * x
  weights = weights / _numerics.nonzero(jnp.sum(weights))
  zeros = form.is_zero.astype(weights.dtype)
  share = zeros / jnp.maximum(jnp.sum(zeros), 1)
  share_all = jnp.all(form.is_zero) if drop_zero_rows else jnp.any(form.is_zero)
  weights = jnp.where(share_all, share, weights)
  finite = jnp.all(jnp.isfinite(gramian))
  return _numerics.nan_unless(finite, weights)
