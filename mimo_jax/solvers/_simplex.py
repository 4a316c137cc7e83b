"""The point of the unit simplex that is nearest to a given one."""

import jax
import jax.numpy as jnp


def simplex_projection(point: jax.Array) -> jax.Array:
  """The nearest point of the unit simplex.

      argmin ‖x − y‖²  over  x ≥ 0, Σ x = 1   is   x = max(y − t, 0)

  with the t for which Σ x = 1. Since f(t) = Σⱼ max(yⱼ − t, 0) decreases, yᵢ is
  above t if and only if f(yᵢ) < 1. This takes K² differences instead of a sort.

  Args:
    point: y, [K], of any magnitude: the largest entry is subtracted first.

  Returns:
    x, [K]. NaN if an entry is NaN or +inf.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> solvers.simplex_projection(jnp.array([0.9, 0.5, -2.0])).tolist()
    [0.7, 0.3, 0.0]

  References:
    J. Duchi et al., Efficient Projections onto the l1-Ball for Learning in High
    Dimensions, ICML 2008, for t; finding it without a sort is ours.
  """
  point = point - jnp.max(point)
  above = jnp.sum(jnp.maximum(point[None, :] - point[:, None], 0), axis=1)
  positive = above < 1
  kept = jnp.sum(jnp.where(positive, point, 0))
  threshold = (kept - 1) / jnp.sum(positive, dtype=point.dtype)
  return jnp.maximum(point - threshold, 0)
