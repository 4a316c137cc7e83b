"""Convex quadratic programs over the non-negative orthant."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _numerics
from mimo_jax.solvers import _pivot
from mimo_jax.solvers import _products


class _ActiveSet(NamedTuple):
  x: jax.Array  # [K], feasible: x >= 0, and 0 outside the support
  support: jax.Array  # [K] bool, where x may be positive
  refused: jax.Array  # [K] bool, tried since x last moved, and left at once
  tableau: jax.Array  # [K, K + 1], [A | -b] with the support pivoted in
  steps: jax.Array
  done: jax.Array


@_products.full_precision
def non_negative_qp(matrix: jax.Array, linear: jax.Array) -> jax.Array:
  """Minimises ½ xᵀAx − bᵀx over x ≥ 0.

  Lawson and Hanson's active-set method on the normal equations. Each step
  solves the equality-constrained problem on the current support exactly, so
  the result is exact to rounding once the support is found, usually after as
  many steps as it has members. At the solution

      x ≥ 0,   A x − b ≥ 0,   xᵀ(A x − b) = 0.

  Args:
    matrix: A, [K, K], symmetric positive semidefinite with a diagonal of order
      one (tolerances are relative to that). The problem must be bounded: b in
      the range of A, or A x ≠ 0 for every direction x ≥ 0 with bᵀx > 0.
    linear: b, [K].

  Returns:
    x, [K]. Where A is singular the solution may not be unique; the one
    returned has linearly independent columns of A in its support. If those are
    dependent to the precision of the type (1e-7 in float32), the cap on the
    number of steps may end it at a feasible x that is not optimal.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> solvers.non_negative_qp(
    ...   jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0])
    ... ).tolist()
    [1.0, 0.0]

  References:
    C. L. Lawson and R. J. Hanson, Solving Least Squares Problems, 1974,
    chapter 23, algorithm NNLS.
  """
  size = linear.shape[0]
  dtype = jnp.result_type(matrix, linear)
  matrix, linear = matrix.astype(dtype), linear.astype(dtype)
  eps = jnp.finfo(dtype).eps
  tolerance = 4 * eps * jnp.max(jnp.abs(linear))
  indices = jnp.arange(size)
  on_diagonal = indices[:, None] == indices[None, :]

  def step(state: _ActiveSet) -> _ActiveSet:
    x, support, tableau = state.x, state.support, state.tableau
    inverse = tableau[:, :size]
    # The minimiser on the support, and a step of iterative refinement, which
    # takes back what pivots on nearly dependent columns have lost.
    target = jnp.where(support, tableau[:, -1], 0)
    residual = jnp.where(support, linear - matrix @ target, 0)
    target = target + jnp.where(support, inverse @ residual, 0)
    blocked = support & (target <= 0)
    # How far towards the target before an entry reaches zero.
    ratios = _numerics.divide(x, x - target, jnp.inf, where=blocked)
    ratios = jnp.where(jnp.isnan(ratios), 0, ratios)  # 0 / 0: x = target = 0
    leaving = jnp.argmin(ratios)
    settled = ~jnp.any(blocked)
    length = jnp.where(settled, 1, jnp.minimum(ratios[leaving], 1))
    leaves = ~settled & (indices == leaving)
    moved = jnp.where(support & ~leaves, x + length * (target - x), 0)
    x = jnp.where(settled, target, moved)
    progress = length > 0
    refused = jnp.where(progress, False, state.refused) | (leaves & ~progress)

    # At the optimum of its support: let in the most violated condition, unless
    # its column depends on the support's: the pivot is what is left of it.
    violation = linear - matrix @ x
    independent = jnp.sum(jnp.where(on_diagonal, inverse, 0), 1) > 8 * eps
    candidate = ~support & ~refused & independent & (violation > tolerance)
    done = settled & ~jnp.any(candidate)
    entering = jnp.argmax(jnp.where(candidate, violation, -jnp.inf))
    index = jnp.where(settled, entering, leaving)
    support = jnp.where(done, support, support ^ (indices == index))
    tableau = _pivot.pivot(tableau, index)
    return _ActiveSet(x, support, refused, tableau, state.steps + 1, done)

  # All zeros, in the type and device variance of the data.
  zero = linear * 0
  nothing = zero > 1
  start = _ActiveSet(
    x=zero,
    support=nothing,
    refused=nothing,
    tableau=jnp.concatenate([matrix, -linear[:, None]], axis=1),
    steps=jnp.zeros((), jnp.int32),
    done=nothing[0],
  )
  # Finite in exact arithmetic; the cap bounds what rounding can do.
  result = lax.while_loop(
    lambda state: ~state.done & (state.steps < 10 * size + 10), step, start
  )
  return result.x
