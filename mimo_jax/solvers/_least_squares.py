"""Least-squares solution of a symmetric system that may be singular."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics
from mimo_jax.solvers import _products


@_products.full_precision
def least_squares(
  matrix: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The shortest x that minimises ‖A x − b‖, and the largest entry of A x − b.

  Uses the eigendecomposition of A, where eigenvalues below 4 K eps times the
  largest count as zero, and one step of iterative refinement.

  Args:
    matrix: A, [K, K], symmetric positive semidefinite, such as cosines.
    target: b, [K].

  Returns:
    x, [K], and max |A x − b|, which is zero up to rounding if the system is
    consistent. NaN if A is not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> matrix = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> x, error = solvers.least_squares(matrix, jnp.array([2.0, 0.0]))
    >>> x.tolist(), float(error)
    ([0.5, -0.5], 1.0)
  """
  values, vectors = jnp.linalg.eigh(matrix)
  size = matrix.shape[0]
  eps = jnp.finfo(values.dtype).eps
  used = values > 4 * size * eps * jnp.max(values)
  inverses = _numerics.divide(1, values, where=used)

  def solve(right: jax.Array) -> jax.Array:
    return vectors @ (inverses * (vectors.T @ right))

  solution = solve(target)
  solution = solution + solve(target - matrix @ solution)
  return solution, jnp.max(jnp.abs(matrix @ solution - target))
