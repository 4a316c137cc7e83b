"""Convex quadratic programs over the non-negative orthant."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _numerics
from mimo_jax.solvers import _pivot
from mimo_jax.solvers import _products


class _ActiveSet(NamedTuple):
  x: jax.Array  # [K], feasible: x >= 0, and 0 outside the support and `owed`
  support: jax.Array  # [K] bool, where x may be positive
  refused: jax.Array  # [K] bool, tried since x last moved, and left at once
  tableau: jax.Array  # [K, K + 1], [A | -b] with the support pivoted in
  owed: jax.Array  # [K] bool, has its x already, and is to be pivoted in
  spoiled: jax.Array  # [] bool, the tableau has a pivot near to rounding
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
    returned has linearly independent columns of A in its support. One that
    depends on them, to the precision of the type (1e-7 in float32), comes in
    exchange for another, so that A x is as exact as if they were independent.
    A cap on the number of steps bounds what rounding can do.

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
  dtype = _numerics.common_type(float, matrix, linear)
  matrix, linear = matrix.astype(dtype), linear.astype(dtype)
  eps = jnp.finfo(dtype).eps
  least = 8 * eps  # of a pivot; below, it is rounding
  largest = jnp.max(jnp.abs(linear))
  indices = jnp.arange(size)
  on_diagonal = indices[:, None] == indices[None, :]
  fresh = jnp.concatenate([matrix, -linear[:, None]], axis=1)

  def step(state: _ActiveSet) -> _ActiveSet:
    x, support, tableau = state.x, state.support, state.tableau
    inverse = tableau[:, :size]
    owes = jnp.any(state.owed)
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
    settled = ~owes & ~jnp.any(blocked)
    leaves = ~owes & jnp.any(blocked)
    length = jnp.where(settled, 1, jnp.minimum(ratios[leaving], 1))
    moved = x + length * (target - x)
    moved = jnp.where(support & (indices != leaving), moved, 0)
    x = jnp.where(settled, target, jnp.where(leaves, moved, x))

    # At the optimum of its support: let in the most violated condition.
    violation = linear - matrix @ x
    left = jnp.sum(jnp.where(on_diagonal, inverse, 0), axis=1)  # pivots
    noise = 32 * eps * (largest + jnp.sum(x))
    tolerance = jnp.where(left > least, 4 * eps * largest, noise)
    candidate = ~support & ~state.refused & (violation > tolerance)
    candidate = jnp.where(owes, state.owed, candidate)
    score = jnp.where(candidate, jnp.where(owes, left, violation), -jnp.inf)
    entering = jnp.argmax(score)
    done = settled & (score[entering] == -jnp.inf)
    progress = length > 0
    refused = jnp.where(progress & ~owes, False, state.refused)
    refused = refused | (leaves & ~progress & (indices == leaving))

    index = jnp.where(leaves, leaving, entering)
    is_index = indices == index
    support = jnp.where(done, support, support ^ is_index)
    owed = state.owed & ~is_index
    # If the column that comes depends on the support's, so that its pivot is
    # rounding, A is taken to be as definite as that allows. The target is then
    # far out on a line along which A x stays as it is and bᵀx grows, and what
    # falls to zero first on it leaves in exchange.
    tableau = _pivot.pivot(tableau, index, least)
    # To take back a pivot near to rounding would leave nothing but that.
    anew = leaves & state.spoiled
    owed = jnp.where(anew, owed | support, owed)
    support = support & ~anew
    tableau = jnp.where(anew, fresh, tableau)
    spoiled = state.spoiled | (~leaves & (left[entering] < jnp.sqrt(eps)))
    return _ActiveSet(
      x=x,
      support=support,
      refused=refused,
      tableau=tableau,
      owed=owed,
      spoiled=spoiled & ~anew,
      steps=state.steps + 1,
      done=done,
    )

  # All zeros, in the type and device variance of the data.
  zero = linear * 0
  nothing = zero > 1
  start = _ActiveSet(
    x=zero,
    support=nothing,
    refused=nothing,
    tableau=fresh,
    owed=nothing,
    spoiled=nothing[0],
    steps=jnp.zeros((), jnp.int32),
    done=nothing[0],
  )
  # Finite in exact arithmetic.
  result = lax.while_loop(
    lambda state: ~state.done & (state.steps < 20 * size + 20), step, start
  )
  return result.x
