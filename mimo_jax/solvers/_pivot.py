"""Principal pivots: systems on a changing support without factorisations."""

import jax
import jax.numpy as jnp


def pivot(
  tableau: jax.Array, index: jax.Array, least: jax.typing.ArrayLike = 0
) -> jax.Array:
  """Exchanges variable `index` with its equation.

  The tableau [M | q], [K, K + m], stands for w = M z + q. Afterwards w_index
  is among the independent variables and z_index among the dependent ones; a
  second pivot on the same index undoes the first. Pivoting on all of a support
  S leaves (M_SS)⁻¹ in its block and −(M_SS)⁻¹ q_S in its rows of q.

  It is a rank-one update: a few fused operations on K² numbers, where a
  factorisation costs several calls of LAPACK.

  The entry to pivot on must not be zero. If it is below `least`, `least` is
  used, which amounts to a change of the diagonal of a positive semidefinite M.
  """
  size = tableau.shape[0]
  is_row = (jnp.arange(size) == index)[:, None]
  is_column = (jnp.arange(tableau.shape[1]) == index)[None, :]
  column = jnp.where(is_column[:, :size], tableau[:, :size], 0)
  column = jnp.sum(column, axis=1, keepdims=True)  # [K, 1]
  row = jnp.sum(jnp.where(is_row, tableau, 0), axis=0, keepdims=True)
  entry = jnp.maximum(jnp.sum(jnp.where(is_row, column, 0)), least)
  row = row / entry
  others = jnp.where(is_column, column / entry, tableau - column * row)
  own = jnp.where(is_column, 1 / entry, -row)
  return jnp.where(is_row, own, others)
