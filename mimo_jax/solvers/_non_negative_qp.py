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
  refused: jax.Array  # [K] bool, entered since x last moved, and left at once
  tableau: jax.Array  # [K, K + 1], [A | -b] with the support pivoted in
  owed: jax.Array  # [K] bool, x may be positive, but not pivoted in again yet
  newest: jax.Array  # [K] bool, entered last, with a pivot close to rounding
  spoiled: jax.Array  # [] bool, a pivot in the tableau was close to rounding
  steps: jax.Array
  done: jax.Array


@_products.full_precision
def non_negative_qp(matrix: jax.Array, linear: jax.Array) -> jax.Array:
  """Minimises ½ xᵀAx − bᵀx over x ≥ 0.

  Uses Lawson and Hanson's active-set method on the normal equations. Each step
  solves the equality-constrained problem on the current support exactly. So the
  result is exact up to rounding once the support is found, usually after as
  many steps as it has members. At the solution

      x ≥ 0,   A x − b ≥ 0,   xᵀ(A x − b) = 0.

  Args:
    matrix: A, [K, K], symmetric positive semidefinite with a diagonal of order
      one (tolerances are relative to that). The problem must be bounded: b in
      the range of A, or A x ≠ 0 for every direction x ≥ 0 with bᵀx > 0.
    linear: b, [K].

  Returns:
    x, [K]. If A is singular, the solution may not be unique; the one returned
    has linearly independent columns of A in its support. A column that depends
    on them, to the precision of the type (1e-7 in float32), only enters in
    exchange for another, so A x is as exact as if they were independent. A
    limit on the number of steps ensures that rounding cannot make it loop.

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
  least = 8 * eps  # the smallest pivot; what is below is rounding
  largest = jnp.max(jnp.abs(linear))
  indices = jnp.arange(size)
  on_diagonal = indices[:, None] == indices[None, :]
  fresh = jnp.concatenate([matrix, -linear[:, None]], axis=1)

  def step(state: _ActiveSet) -> _ActiveSet:
    x, support, tableau = state.x, state.support, state.tableau
    inverse = tableau[:, :size]
    owes = jnp.any(state.owed)
    # The minimiser on the support. A step of iterative refinement corrects the
    # rounding errors of pivots on nearly dependent columns.
    target = jnp.where(support, tableau[:, -1], 0)
    residual = jnp.where(support, linear - matrix @ target, 0)
    target = target + jnp.where(support, inverse @ residual, 0)
    blocked = support & (target <= 0)
    # Where no entry blocks, and the target solves the equations no better than
    # x, rounding alone made the newest column look useful: it leaves again.
    errors = [
      jnp.max(jnp.where(support, jnp.abs(linear - matrix @ point), 0))
      for point in (x, target)
    ]
    is_endless = ~jnp.any(blocked) & (errors[1] >= errors[0])
    blocked = jnp.where(is_endless, state.newest, blocked)
    # How far x can move towards the target before an entry reaches zero.
    ratios = _numerics.divide(x, x - target, jnp.inf, where=blocked)
    ratios = jnp.where(jnp.isnan(ratios), 0, ratios)  # 0 / 0: x = target = 0
    leaving = jnp.argmin(ratios)
    settled = ~owes & ~jnp.any(blocked)
    leaves = ~owes & jnp.any(blocked)
    length = jnp.where(settled, 1, jnp.minimum(ratios[leaving], 1))
    moved = x + length * (target - x)
    moved = jnp.where(support & (indices != leaving), moved, 0)
    x = jnp.where(settled, target, jnp.where(leaves, moved, x))

    # At the optimum on the support, the most violated condition enters.
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
    # If the entering column depends on the support's, its pivot is rounding,
    # and `least` is used instead. The target is then far out on a line along
    # which A x stays constant and bᵀx grows, and the entry that first falls to
    # zero on the way leaves in exchange.
    tableau = _pivot.pivot(tableau, index, least)
    # Undoing a pivot close to rounding would leave only rounding errors, so the
    # tableau is built again from the matrix.
    anew = leaves & state.spoiled
    owed = jnp.where(anew, owed | support, owed)
    support = support & ~anew
    tableau = jnp.where(anew, fresh, tableau)
    is_near = ~leaves & (left[entering] < jnp.sqrt(eps))
    spoiled = state.spoiled | is_near
    return _ActiveSet(
      x=x,
      support=support,
      refused=refused,
      tableau=tableau,
      owed=owed,
      newest=is_index & is_near & ~owes,
      spoiled=spoiled & ~anew,
      steps=state.steps + 1,
      done=done,
    )

  # Zeros made from the data, so that they vary between devices if the data do.
  zero = linear * 0
  nothing = zero > 1
  start = _ActiveSet(
    x=zero,
    support=nothing,
    refused=nothing,
    tableau=fresh,
    owed=nothing,
    newest=nothing,
    spoiled=nothing[0],
    steps=jnp.zeros((), jnp.int32),
    done=nothing[0],
  )
  # In exact arithmetic it ends without the limit.
  result = lax.while_loop(
    lambda state: ~state.done & (state.steps < 20 * size + 20), step, start
  )
  return result.x
