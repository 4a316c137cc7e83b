"""Splits Gramians into cosines and lengths."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _numerics


class CosineForm(NamedTuple):
  """G = longest² · diag(lengths) cosines diag(lengths), but for zero vectors.

  A zero vector is represented by a unit vector orthogonal to all others: its
  length and its cosine with itself are 1, its cosines with others 0. This keeps
  systems of equations regular and does not affect the other solutions.
  """

  cosines: jax.Array  # [K, K], unit diagonal
  lengths: jax.Array  # [K], of the vectors, relative to the longest
  longest: jax.Array  # [], 1 if all are zero
  is_zero: jax.Array  # [K] bool


def cosine_form(gramian: jax.Array) -> CosineForm:
  """Splits a Gramian into cosines and lengths.

  Solvers that work on cosines are exact however much the lengths differ, even
  in float32. There the condition number of the Gramian, which is that of the
  vectors squared, would leave no correct digits.

  Args:
    gramian: G, [K, K], inner products of K vectors.

  Returns:
    A `CosineForm`, NaN if G is not finite. A vector counts as zero if its
    square, relative to that of the longest, is zero in the type of G.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> form = solvers.cosine_form(jnp.array([[4.0, 3.0], [3.0, 9.0]]))
    >>> form.cosines[0].tolist(), form.lengths.tolist(), float(form.longest)
    ([1.0, 0.5], [0.667, 1.0], 3.0)
  """
  # Scale by the largest entry first: otherwise squares of 1e-30 would vanish.
  largest = _numerics.nonzero(jnp.max(jnp.diagonal(gramian)))
  scaled = gramian / largest
  squares = jnp.diagonal(scaled)
  is_zero = squares <= 0
  lengths = jnp.sqrt(jnp.where(is_zero, 1, squares))
  cosines = scaled / lengths[None, :] / lengths[:, None]
  both = ~is_zero[:, None] & ~is_zero[None, :]
  identity = jnp.eye(len(squares), dtype=gramian.dtype)
  # The diagonal is exactly 1, whatever the rounding.
  cosines = jnp.where(both & (identity == 0), cosines, identity)
  cosines = _numerics.nan_unless(jnp.all(jnp.isfinite(gramian)), cosines)
  return CosineForm(cosines, lengths, jnp.sqrt(largest), is_zero)
