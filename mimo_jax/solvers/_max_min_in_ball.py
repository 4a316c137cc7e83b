"""The direction in a ball that is best for the worst objective."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _numerics
from mimo_jax.solvers import _cosine_form
from mimo_jax.solvers import _pivot
from mimo_jax.solvers import _products


class _Path(NamedTuple):
  level: jax.Array  # [], t
  support: jax.Array  # [K] bool, the rows that are tight at this level
  changes: jax.Array  # [K] int32, entries and exits since the level last rose
  tableau: jax.Array  # [K, K + 2], [C | b | -c] with the support pivoted in
  owed: jax.Array  # [] int32, the row that has to enter next, or -1
  steps: jax.Array
  done: jax.Array


@_products.full_precision
def max_min_in_ball(
  gramian: jax.Array,
  center: jax.Array,
  radius: float | jax.Array,
  *,
  ceiling: float | jax.Array = jnp.inf,
) -> jax.Array:
  """Weights of the direction in a ball that most helps the worst objective.

      d* = argmax  minᵢ gᵢᵀd   over  ‖d − g₀‖ ≤ r ‖g₀‖,     g₀ = Jᵀp

  Let d(t) be the nearest point to g₀ with gᵢᵀd ≥ t for all i. It moves away
  from g₀ as t grows, and d* is where it meets the sphere. d(t) is piecewise
  affine: the set of tight rows changes by one row at a time, at levels that are
  computed exactly, so d* is found exactly after about K pivots. If t cannot
  grow until d(t) meets the sphere (zero is in the hull of the rows), any d in
  the ball with J d ≥ 0 is optimal, and d* is the one nearest to g₀.

  Certificate: with κ = r‖g₀‖, a = p + v, v ≥ 0 and w = v / Σ v, the duality gap
  wᵀG p + κ √(wᵀG w) − minᵢ (G a)ᵢ is zero.

  Args:
    gramian: G, [K, K], inner products of the rows of J.
    center: p, [K], the weights of g₀.
    radius: r ≥ 0.
    ceiling: the level t at which to stop, in units of G. With 0, d only has to
      satisfy J d ≥ 0.

  Returns:
    a, [K], at least p, with d* = Jᵀa. Rows of length zero are left out and
    keep their pᵢ. NaN if G is not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> mean = jnp.array([0.5, 0.5])
    >>> solvers.max_min_in_ball(rows @ rows.T, mean, 0.5).tolist()
    [0.704, 0.5]
  """
  form = _cosine_form.cosine_form(gramian)
  size = center.shape[0]
  cosines, valid = form.cosines, ~form.is_zero
  dtype = cosines.dtype
  eps = jnp.finfo(dtype).eps
  indices = jnp.arange(size)
  # In units of the longest row. gᵢᵀd ≥ t is uᵢᵀd ≥ t cᵢ with unit vectors u.
  shortest = jnp.min(jnp.where(valid, form.lengths, 1))
  inverse = jnp.where(valid, shortest / form.lengths, 0)  # c
  scaled = jnp.where(valid, form.lengths * center, 0).astype(dtype)
  along = cosines @ scaled  # b, uᵢᵀg₀
  bound = jnp.square(jnp.asarray(radius, dtype)) * (scaled @ along)  # κ²
  bound = jnp.maximum(bound, 0)
  highest = jnp.asarray(ceiling, dtype) / (shortest * form.longest**2)
  # At the level of g₀ itself, one row is tight.
  levels = _numerics.divide(along, inverse, jnp.inf, where=valid)
  first = jnp.argmin(levels)

  def rise_to_sphere(state: _Path) -> jax.Array:
    """How far the level can rise on this piece of the path to the sphere."""
    # ‖d(t) − g₀‖² = (t c − b)ᵀ y(t) on the support, with y(t) = y₀ + t y₁ and
    # the derivative 2 cᵀy(t).
    slope = jnp.where(state.support, state.tableau[:, -1], 0)
    offset = jnp.where(state.support, state.tableau[:, -2], 0)
    y = offset + state.level * slope
    left = jnp.maximum(bound - (state.level * inverse - along) @ y, 0)
    square, half = inverse @ slope, jnp.maximum(inverse @ y, 0)
    root = half + jnp.sqrt(jnp.square(half) + jnp.maximum(square, 0) * left)
    return left / jnp.where(root > 0, root, 1)

  def step(state: _Path) -> _Path:
    offset, slope = state.tableau[:, -2], state.tableau[:, -1]
    inverse_matrix = state.tableau[:, :size]
    # A slope has the rounding of its terms, which may be tiny for a long row.
    terms = jnp.where(state.support[None, :], jnp.abs(inverse_matrix), 0)
    rounding = eps * (terms @ inverse + jnp.where(state.support, 0, inverse))
    # Rows that become tight together may have to leave again at that level.
    falling = (slope < -8 * rounding) & valid & (state.changes < 2)
    # The next level at which a weight or a slack reaches zero.
    next_levels = _numerics.divide(-offset, slope, jnp.inf, where=falling)
    next_levels = jnp.maximum(next_levels, state.level)
    index = jnp.argmin(next_levels)
    sphere = state.level + rise_to_sphere(state)
    # Not jnp.minimum: the derivative of an infinite `highest` is NaN.
    stop = jnp.maximum(highest, state.level)
    last = jnp.where(stop < sphere, stop, sphere)
    owes = state.owed >= 0
    reached = ~owes & (last <= next_levels[index])
    level = jnp.where(owes, state.level, jnp.minimum(next_levels[index], last))

    # A row that depends on the tight ones cannot become tight beside them. One
    # of them must leave first: the one whose weight falls to zero first.
    column = jnp.sum(jnp.where(indices == index, inverse_matrix, 0), axis=1)
    own = column[index]
    dependent = (
      ~owes & ~reached & ~state.support[index] & (own <= max(8, size) * eps)
    )
    # Entries that are only rounding must not be exchanged.
    gives = state.support & (column < -jnp.sqrt(eps) * jnp.max(jnp.abs(column)))
    weights = jnp.maximum(offset + level * slope, 0)
    ratios = _numerics.divide(weights, -column, jnp.inf, where=gives)
    # If no row can leave, the level cannot grow any further.
    done = reached | (dependent & ~jnp.any(gives))
    going = jnp.argmin(ratios)
    owing = state.owed.astype(index.dtype)
    owed = jnp.where(dependent, index, -1).astype(jnp.int32)
    index = jnp.where(owes, owing, jnp.where(dependent, going, index))

    is_index = indices == index
    changes = jnp.where(level > state.level, 0, state.changes)
    changes = changes + is_index.astype(jnp.int32)
    support = jnp.where(done, state.support, state.support ^ is_index)
    tableau = jnp.where(done, state.tableau, _pivot.pivot(state.tableau, index))
    return _Path(level, support, changes, tableau, owed, state.steps + 1, done)

  zero = along * 0
  none = ~jnp.isfinite(levels[first])  # of rows that are not zero
  start = _Path(
    level=jnp.where(none, 0, levels[first]),
    support=zero > 1,
    changes=(zero > 1).astype(jnp.int32),
    tableau=jnp.concatenate(
      [cosines, along[:, None], -inverse[:, None]], axis=1
    ),
    owed=first.astype(jnp.int32),
    steps=jnp.zeros((), jnp.int32),
    done=none,
  )
  end = lax.while_loop(
    lambda state: ~state.done & (state.steps < 10 * size + 10), step, start
  )

  def missing(excess: jax.Array) -> jax.Array:
    """Returns how far tight rows are from their level; 0 for other rows."""
    left = end.level * inverse - along - cosines @ excess
    return jnp.where(end.support, left, 0)

  excess = end.tableau[:, -2] + end.level * end.tableau[:, -1]
  excess = jnp.where(end.support, excess, 0)
  # A step of iterative refinement corrects the rounding errors of the pivots,
  # unless these are too large.
  refined = excess + end.tableau[:, :size] @ missing(excess)
  refined = jnp.where(end.support, refined, 0)
  better = jnp.sum(missing(refined) ** 2) < jnp.sum(missing(excess) ** 2)
  excess = jnp.where(better, refined, excess)
  # If the ball is a point, any excess is rounding.
  excess = jnp.where(end.support & (bound > 0), jnp.maximum(excess, 0), 0)
  weights = center + excess / form.lengths
  return _numerics.nan_unless(jnp.all(jnp.isfinite(gramian)), weights)
