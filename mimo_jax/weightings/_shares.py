"""Shares of the objectives that a rule moves a little at each step."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics
from mimo_jax import solvers


def of_present(
  shares: jax.Array, present: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The shares relative to their sum over the present objectives, and that.

  Until an absent objective is back, the others divide its share.
  """
  # Exactly 1 if all are present.
  left = 1 - jnp.sum(jnp.where(present, 0, shares))
  relative = jnp.where(present, shares / _numerics.nonzero(left), 0)
  return relative, left


def descended(
  shares: jax.Array,
  products: jax.Array,
  present: jax.Array,
  step_size: _numerics.Scalar,
  regularization: _numerics.Scalar,
) -> tuple[jax.Array, jax.Array]:
  """One projected step down ½ λᵀ(G + ρ)λ: today's weights, and all shares."""
  relative, left = of_present(shares, present)
  along = jnp.sum(products * relative[None, :], axis=1)
  gradient = along + regularization * relative
  weights = project(relative - step_size * gradient, present)
  return weights, _numerics.keep_rows(present, left * weights, shares)


def project(point: jax.Array, present: jax.Array) -> jax.Array:
  """The nearest point of the unit simplex, of the present objectives."""
  largest = jnp.max(jnp.where(present, point, -jnp.inf))
  # An entry two below the largest one gets no share.
  return solvers.simplex_projection(jnp.where(present, point, largest - 2))
