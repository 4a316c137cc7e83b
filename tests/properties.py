"""The properties that weightings claim, one check per word.

A weighting claims a property by naming it in the line *Properties* of its
docstring. Each check takes the weighting and the rows of a Jacobian, float64
[K, P], and fails if the claim is wrong for them. Tolerances of a direction
d = Jᵀa are relative to Σ |aᵢ| ‖gᵢ‖, the summed lengths of its terms, since its
rounding error is.
"""

import functools
import inspect
import re
from typing import Any, NamedTuple

import jax
import numpy as np

import mimo_jax
from tests import jacobians

EPS = float(np.finfo(np.float32).eps)
TOLERANCE = 64 * EPS


class Weighed(NamedTuple):
  """A rule's weights and direction for the rows of a Jacobian, in float64."""

  weights: np.ndarray  # [K]; averaged if each coordinate has its own
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


@functools.cache
def make(name: str, **arguments: Any) -> mimo_jax.Weighting:
  """Makes a rule; the same object each time, so that it compiles once."""
  return getattr(mimo_jax.weightings, name)(**arguments)


def claims(name: str) -> list[str]:
  """Returns the words in the line *Properties* of a factory's docstring."""
  text = inspect.getdoc(getattr(mimo_jax.weightings, name)) or ''
  line = re.search(r'^Properties: (.*?)\.$', text, re.MULTILINE | re.DOTALL)
  return re.split(r',\s+', line[1]) if line else []


@functools.cache
def compiled(rule: mimo_jax.Weighting) -> tuple[Any, list[int]]:
  """Returns the jitted update, shared by all tests, and its list of traces."""
  traces = []

  def update(observation: mimo_jax.Observation, state: Any) -> Any:
    traces.append(observation.num_objectives)
    return rule.update(observation, state)

  return jax.jit(update), traces


def init(rule: mimo_jax.Weighting, rows: np.ndarray) -> Any:
  """Returns a rule's initial state for a Jacobian of this shape."""
  return _initial(rule, rows.shape, jax.numpy.result_type(float))


@functools.cache
def _initial(
  rule: mimo_jax.Weighting, shape: tuple[int, int], dtype: np.dtype
) -> Any:
  return rule.init(shape[0], jacobians.params_of(np.zeros(shape, dtype)))


def weigh(
  rule: mimo_jax.Weighting,
  rows: np.ndarray,
  losses: np.ndarray | None = None,
) -> Weighed:
  """Asks a rule about these rows, in its first step."""
  observation = jacobians.seen_by(rule, jacobians.observe(rows, losses))
  update, _ = compiled(rule)
  return weighed(rows, update(observation, init(rule, rows))[0])


def summed_lengths(rows: np.ndarray, weights: np.ndarray) -> float:
  return np.linalg.norm(rows, axis=1) @ np.abs(weights)


def assert_same(
  direction: np.ndarray,
  expected: Weighed,
  rows: np.ndarray,
  tolerance: float = TOLERANCE,
) -> None:
  """Checks a direction, relative to the summed lengths of its terms."""
  np.testing.assert_allclose(
    direction,
    expected.direction,
    rtol=0,
    atol=tolerance * summed_lengths(rows, expected.weights),
  )


def assert_shortest(
  rows: np.ndarray, weights: np.ndarray, tolerance: float
) -> None:
  """Certifies Jᵀa as the shortest vector of the hull of the rows.

  For a on the simplex, d = Jᵀa is the shortest vector if and only if
  gᵢᵀd ≥ ‖d‖² for every i. Let the relative violation v be the largest of
  (‖d‖² − gᵢᵀd) / (‖gᵢ‖ Σ aⱼ‖gⱼ‖), and a* the minimiser. Then
  ‖d − d*‖² ≤ 2 v (Σ aⱼ‖gⱼ‖) (Σ a*ᵢ‖gᵢ‖).
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
  """Jᵀa is the shortest vector of the hull of the rows that are not zero."""
  weights = weigh(rule, rows).weights
  used = np.any(rows != 0, axis=1)
  if used.any():
    np.testing.assert_array_equal(weights[~used], 0)
    rows, weights = rows[used], weights[used]
  assert_shortest(rows, weights, TOLERANCE)


def non_conflicting(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """J d ≥ 0: to first order no objective gets worse."""
  weights, direction = weigh(rule, rows)
  gain = rows @ direction
  allowed = np.linalg.norm(rows, axis=1) * summed_lengths(rows, weights)
  assert np.all(gain >= -TOLERANCE * allowed), (gain, allowed)


def permutation_equivariant(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """The order of objectives, the primary one included, does not change d."""
  losses = jacobians.losses_of(rows)
  expected = weigh(rule, rows, losses)
  for order in (np.arange(len(rows))[::-1], np.roll(np.arange(len(rows)), 1)):
    permuted = weigh(rule, rows[order], losses[order])
    assert_same(permuted.direction, expected, rows)


def scale_invariant(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """J → sJ does not change the weights; checked as d(sJ) = s d(J).

  Squares of lengths below 1e-15 come near the smallest float32 and lose digits.
  There the tolerance is the one of all guarantees, 2 √ε.
  """
  expected = weigh(rule, rows)
  lengths = np.linalg.norm(rows, axis=1)
  shortest = np.min(lengths, initial=np.inf, where=lengths > 0)
  for scale in (1e-10, 3e-4, 7e3, 1e10):
    tolerance = TOLERANCE if scale * shortest > 1e-15 else 2 * EPS**0.5
    scaled = weigh(rule, scale * rows).direction / scale
    assert_same(scaled, expected, rows, tolerance)


def linear_under_scaling(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """d(diag(c) J) is a linear function of c > 0: d(x + y) = d(x) + d(y)."""
  size = len(rows)
  losses = jacobians.losses_of(rows)
  one, other = np.linspace(0.3, 2, size), np.linspace(1.7, 0.2, size) ** 2

  def direction(lengths: np.ndarray) -> np.ndarray:
    scaled = lengths[:, None] * rows
    return weigh(rule, scaled, losses).direction

  weights = weigh(rule, rows, losses).weights
  parts = 3 * direction(one) + 0.5 * direction(other)
  whole = direction(3 * one + 0.5 * other)
  assert_same(whole, Weighed(weights, parts), rows, 7 * TOLERANCE)


def after_steps(
  rule: mimo_jax.Weighting,
  rows: np.ndarray,
  scales: np.ndarray | float,
  units: np.ndarray | float,
) -> Weighed:
  """Asks a rule in its fourth step, after losses fell at unequal rates.

  Losses are multiplied by `scales`, rows by `units`.
  """
  rows = rows * np.broadcast_to(units, len(rows))[:, None]
  losses = scales * jacobians.losses_of(rows)
  rates = np.linspace(0.5, 0.9, len(rows))
  (update, _), state, weights = compiled(rule), init(rule, rows), None
  for step in range(4):
    observation = jacobians.observe(rows, losses * rates**step)
    after = losses * rates ** (step - 0.4)
    observation = observation._replace(
      losses_after=after.astype(observation.losses.dtype)
    )
    weights, state = update(jacobians.seen_by(rule, observation), state)
  return weighed(rows, weights)


def loss_scale_free(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """L → sL, at all steps, does not change the weights."""
  expected = after_steps(rule, rows, 1.0, 1.0)
  for scale in (1e-10, 3e-4, 7e3, 1e10):
    scaled = after_steps(rule, rows, scale, 1.0)
    assert_same(scaled.direction, expected, rows)


def unit_free(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """L → c∘L, and with it J → diag(c) J, only scales d, for all c > 0.

  Checked as d divided by the summed lengths of its terms.
  """

  def relative(units: np.ndarray) -> np.ndarray:
    weights, direction = after_steps(rule, rows, units, units)
    length = summed_lengths(rows * units[:, None], weights)
    return direction / length if length else direction

  expected = relative(np.ones(len(rows)))
  for units in (
    np.geomspace(1e-3, 50, len(rows)),
    np.linspace(3, 1, len(rows)),
  ):
    np.testing.assert_allclose(
      relative(units), expected, rtol=0, atol=TOLERANCE
    )


def strongly_stationary(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """The direction is 0 if some positive combination of all rows is."""
  if not jacobians.is_strongly_stationary(rows):
    return
  weights, direction = weigh(rule, rows)
  allowed = TOLERANCE * summed_lengths(rows, weights)
  assert np.linalg.norm(direction) <= allowed, (direction, allowed)


def impartial(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """The cosine of d with every row is the same, if rows are independent."""
  lengths = np.linalg.norm(rows, axis=1)
  if not lengths.min() or len(rows) > rows.shape[1]:
    return
  if np.linalg.cond(rows / lengths[:, None]) > 100:
    return
  weights, direction = weigh(rule, rows)
  along = rows @ direction / lengths
  np.testing.assert_allclose(
    along, along.mean(), rtol=0, atol=TOLERANCE * summed_lengths(rows, weights)
  )
  assert np.linalg.norm(direction) > 0


def bargaining(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """aᵢ (G a)ᵢ is the same for every row that is not zero, or all a are 0."""
  weights, direction = weigh(rule, rows)
  lengths = np.linalg.norm(rows, axis=1)
  assert np.all(weights[lengths == 0] == 0)
  if not lengths.max() or jacobians.is_stationary(rows[lengths > 0]):
    np.testing.assert_array_equal(weights, 0)
    return
  gains = (weights * (rows @ direction))[lengths > 0]
  # The rounding error of gᵢᵀd is relative to ‖gᵢ‖ Σ aⱼ‖gⱼ‖.
  allowed = TOLERANCE * weights * lengths * summed_lengths(rows, weights)
  assert np.all(np.abs(gains - gains.mean()) <= 2 * allowed[lengths > 0].max())
  assert gains.min() > 0


def row_scale_invariant(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """J → diag(s) J, s > 0, does not change d.

  The scales are powers of two, which cause no rounding, so the condition of J
  does not matter.
  """
  expected, losses = weigh(rule, rows), jacobians.losses_of(rows)
  exponents = np.arange(len(rows))
  for scales in (2.0 ** (4 * exponents % 7 - 3), 2.0 ** (13 - 5 * exponents)):
    scaled = weigh(rule, scales[:, None] * rows, losses)
    assert_same(scaled.direction, expected, rows)


def assert_best_in_ball(
  rows: np.ndarray, weights: np.ndarray, radius: float, tolerance: float
) -> None:
  """Certifies Jᵀa as best for the worst row within r‖g₀‖ of the mean g₀.

  For any w on the simplex, wᵀG p + r‖g₀‖ ‖Jᵀw‖ bounds min gᵢᵀd from above. For
  w = v / Σ v, where v = a − p are the weights beyond the mean, the bound must
  be attained. If d is inside the ball, no d can gain more, and J d ≥ 0.
  """
  lengths = np.linalg.norm(rows, axis=1)
  if not lengths.max():
    return
  direction = rows.T @ weights
  mean = rows.mean(0)
  reach = radius * np.linalg.norm(mean)
  summed = summed_lengths(rows, weights)
  distance = np.linalg.norm(direction - mean)
  assert distance <= reach + tolerance * summed
  used = lengths > 0
  beyond = weights - 1 / len(rows)
  assert beyond[used].min() >= -tolerance
  gains = rows[used] @ direction
  if distance < reach - tolerance * summed:
    # If zero is in the hull, the precision of the level is the square root of
    # that of the cosines.
    assert np.all(gains >= -np.sqrt(tolerance) * lengths[used] * summed)
    return
  if beyond[used].sum() <= tolerance:  # the ball is a point
    assert reach <= tolerance * summed
    return
  multipliers = beyond[used] / beyond[used].sum()
  bound = multipliers @ (rows[used] @ mean) + reach * np.linalg.norm(
    rows[used].T @ multipliers
  )
  # The rounding error of a gain is relative to the summed sizes of its terms.
  allowed = tolerance * (lengths[used] + lengths[used] @ multipliers) * summed
  assert np.all(bound - gains <= allowed), (bound - gains, allowed)


def cagrad_ball(rule: mimo_jax.Weighting, rows: np.ndarray) -> None:
  """Jᵀa is best for the worst row in the ball, with the default c of 0.5."""
  assert_best_in_ball(rows, weigh(rule, rows).weights, 0.5, TOLERANCE)
