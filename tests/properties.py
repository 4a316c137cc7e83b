"""The properties that weightings claim, one check for each word.

A weighting claims a property by naming it in the line *Properties* of its
docstring. Each check takes the weighting and the rows of a Jacobian, float64
[K, P], and fails where the claim does. What a direction d = Jᵀa can be right
to is a part of Σ |aᵢ| ‖gᵢ‖, the lengths that it is summed from.
"""

from typing import Any, NamedTuple

import jacobians
import jax
import numpy as np

import mimo_jax

EPS = float(np.finfo(np.float32).eps)
TOLERANCE = 64 * EPS


class Weighed(NamedTuple):
  """What a rule makes of the rows of a Jacobian, in float64."""

  weights: np.ndarray  # [K]; where each coordinate has its own, their mean
  direction: np.ndarray  # [P]


def weighed(rows: np.ndarray, weights: Any) -> Weighed:
  """Reads weights in any of the forms that a rule may return."""
  if isinstance(weights, mimo_jax.Direction):
    return Weighed(
      np.asarray(weights.weights, float), jacobians.flat(weights.updates)
    )
  if isinstance(weights, dict):
    each = np.stack(
      [
        jacobians.flat(jax.tree.map(lambda leaf, i=i: leaf[i], weights))
        for i in range(len(rows))
      ]
    )
    return Weighed(each.mean(1), (each * rows).sum(0))
  weights = np.asarray(weights, float)
  return Weighed(weights, rows.T @ weights)


def weigh(
  rule: mimo_jax.Weighting,
  rows: np.ndarray,
  losses: np.ndarray | None = None,
) -> Weighed:
  """What a rule makes of these rows in its first step."""
  if losses is None:
    losses = jacobians.losses_of(rows)
  observation = jacobians.observe(rows, losses)
  state = rule.init(len(rows), jacobians.params_of(rows))
  return weighed(rows, jax.jit(rule.update)(observation, state)[0])


def summed_lengths(rows: np.ndarray, weights: np.ndarray) -> float:
  return np.linalg.norm(rows, axis=1) @ np.abs(weights)


def assert_shortest(
  rows: np.ndarray, weights: np.ndarray, tolerance: float
) -> None:
  """Certifies Jᵀa as the shortest vector of the hull of the rows.

  On the simplex, d = Jᵀa is the shortest vector if and only if no row reaches
  less far along d than d itself: gᵢᵀd ≥ ‖d‖² for every i. With v the largest
  of (‖d‖² − gᵢᵀd) / (‖gᵢ‖ Σ aⱼ‖gⱼ‖), a relative violation, and a* the
  minimiser, ‖d − d*‖² ≤ 2 v (Σ aⱼ‖gⱼ‖) (Σ a*ᵢ‖gᵢ‖).
  """
  weights = np.asarray(weights, np.float64)
  assert weights.min() >= 0
  np.testing.assert_allclose(weights.sum(), 1, rtol=tolerance)
  direction = rows.T @ weights
  violation = direction @ direction - rows @ direction
  allowed = np.linalg.norm(rows, axis=1) * summed_lengths(rows, weights)
  assert np.all(violation <= tolerance * allowed), (violation, allowed)


def simplex(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """aᵢ ≥ 0 and Σ aᵢ = 1."""
  weights = weigh(rule, rows).weights
  assert weights.min() >= 0
  np.testing.assert_allclose(weights.sum(), 1, rtol=len(rows) * EPS)


def min_norm(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """Jᵀa is the shortest vector of the convex hull of the rows."""
  assert_shortest(rows, weigh(rule, rows).weights, TOLERANCE)


def non_conflicting(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """J d ≥ 0: to first order no objective is made worse."""
  weights, direction = weigh(rule, rows)
  gain = rows @ direction
  allowed = np.linalg.norm(rows, axis=1) * summed_lengths(rows, weights)
  assert np.all(gain >= -TOLERANCE * allowed), (gain, allowed)


def permutation_equivariant(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """The order of the objectives, the primary one included, moves no d."""
  losses = jacobians.losses_of(rows)
  weights, direction = weigh(rule, rows, losses)
  for order in (np.arange(len(rows))[::-1], np.roll(np.arange(len(rows)), 1)):
    permuted = weigh(rule, rows[order], losses[order])
    np.testing.assert_allclose(
      permuted.direction,
      direction,
      rtol=0,
      atol=TOLERANCE * summed_lengths(rows, weights),
    )


def scale_invariant(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """J → sJ leaves the weights as they are; compared as d(sJ) = s d(J)."""
  weights, direction = weigh(rule, rows)
  for scale in (1e-10, 3e-4, 7e3, 1e10):
    np.testing.assert_allclose(
      weigh(rule, scale * rows).direction / scale,
      direction,
      rtol=0,
      atol=TOLERANCE * summed_lengths(rows, weights),
    )


def linear_under_scaling(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """Of c > 0, d(diag(c) J) is a linear function: d(x + y) = d(x) + d(y)."""
  size = len(rows)
  losses = jacobians.losses_of(rows)
  one, other = np.linspace(0.3, 2, size), np.linspace(1.7, 0.2, size) ** 2

  def direction(lengths: np.ndarray) -> np.ndarray:
    scaled = lengths[:, None] * rows
    return weigh(rule, scaled, losses).direction

  weights = weigh(rule, rows, losses).weights
  parts = 3 * direction(one) + 0.5 * direction(other)
  np.testing.assert_allclose(
    direction(3 * one + 0.5 * other),
    parts,
    rtol=0,
    atol=TOLERANCE * 7 * summed_lengths(rows, weights),
  )
