"""The point of a convex hull that is nearest to the origin."""

import jax
import jax.numpy as jnp

from mimo_jax.solvers import _non_negative_qp


def min_norm(gramian: jax.Array) -> jax.Array:
  """Convex weights of the shortest vector in the hull of K vectors.

      a* = argmin  aᵀ G a   over  a ≥ 0, Σ a = 1

  Certificate: the gap aᵀGa − minᵢ (Ga)ᵢ is zero at a*, and bounds the squared
  distance of Jᵀa from the shortest vector.

  With nᵢ = √Gᵢᵢ, cosines C = diag(n)⁻¹ G diag(n)⁻¹ and c = min(n)/n, the
  minimiser is a = (c∘x)/(cᵀx) where x ≥ 0 minimises ½ xᵀ(C + ccᵀ)x − cᵀx, a
  problem that is bounded and of order one however the lengths differ. So
  float32 is exact on rows of lengths 1e-3 and 1e3 together, and the answer
  does not depend on the scale of G.

  Args:
    gramian: G, [K, K], inner products of the vectors. Vectors of length zero
      are the shortest point themselves and share all weight equally.

  Returns:
    a, [K]. Not unique if the vectors are affinely dependent; Jᵀa always is. NaN
    if G is not finite.

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
  diagonal = jnp.diagonal(gramian)
  # Scaled by the largest entry first: squares of 1e-30 would otherwise vanish.
  largest = jnp.max(diagonal)
  scaled = gramian / jnp.where(largest > 0, largest, 1)
  squares = jnp.diagonal(scaled)
  is_zero = squares <= 0
  lengths = jnp.sqrt(jnp.where(is_zero, 1, squares))
  cosines = scaled / lengths[None, :] / lengths[:, None]
  inverse = jnp.min(lengths) / lengths
  x = _non_negative_qp.non_negative_qp(
    cosines + jnp.outer(inverse, inverse), inverse
  )
  weights = inverse * x
  weights = weights / jnp.sum(weights)
  share = is_zero / jnp.maximum(jnp.sum(is_zero), 1)
  weights = jnp.where(jnp.any(is_zero), share, weights)
  finite = jnp.all(jnp.isfinite(gramian))
  return jnp.where(finite, weights, jnp.nan).astype(gramian.dtype)
