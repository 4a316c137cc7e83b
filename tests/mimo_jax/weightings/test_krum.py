"""Krum, by its definition."""

import numpy as np
import pytest

from tests import jacobians
from tests.mimo_jax.weightings.of_gradients import init
from tests.mimo_jax.weightings.of_gradients import make
from tests.mimo_jax.weightings.of_gradients import observe
from tests.mimo_jax.weightings.of_gradients import of_cases
from tests.mimo_jax.weightings.of_gradients import update


def krum_weights(rows, num_byzantine, num_selected):
  """Computes the paper's rule on the vectors themselves."""
  size = len(rows)
  scores = []
  for row in rows:
    distances = np.sort(np.sum((rows - row) ** 2, axis=1))
    # The smallest distance is that to itself, zero.
    scores.append(distances[1 : max(size - num_byzantine - 2, 1) + 1].sum())
  selected = np.argsort(scores, kind='stable')[:num_selected]
  return np.isin(np.arange(size), selected) / num_selected


def test_krum_selects_by_squared_distances():
  for f, m in ((0, 1), (1, 2), (2, 1), (4, 3)):
    rule = make('krum', num_byzantine=f, num_selected=m)
    for seed in range(5):
      # Rows with a common part, as gradients of one batch; other lengths.
      rows = 2.0 + jacobians.generic(8, 11, seed)
      weights, _ = update(rule, observe(rows), init(rule, 8))
      np.testing.assert_allclose(weights, krum_weights(rows, f, m), rtol=1e-6)


def test_krum_squares_distances_which_changes_the_selection():
  rows = np.array([[4, -3], [-2, -2], [-3, -2], [-1, -4], [-3, 4]])
  distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
  for power, selected in ((1, 1), (2, 3)):
    scores = np.sort(distances**power, axis=1)[:, :4].sum(axis=1)
    assert np.argmin(scores) == selected
  rule = make('krum')
  weights, _ = update(rule, observe(rows), init(rule, 5))
  np.testing.assert_array_equal(weights, [0, 0, 0, 1, 0])


def test_krum_selects_the_first_of_ties():
  rule = make('krum', num_selected=2)
  row = jacobians.generic(1, 5)[0]
  for rows, expected in (
    (np.tile(row, [4, 1]), [0.5, 0.5, 0, 0]),
    (np.stack([9 * row, row, row, row, -9 * row]), [0, 0.5, 0.5, 0, 0]),
  ):
    weights, _ = update(rule, observe(rows), init(rule, len(rows)))
    np.testing.assert_array_equal(weights, expected)


def test_krum_of_one_or_two_is_the_first():
  rule = make('krum')
  pair, _ = update(rule, observe(jacobians.generic(2, 5)), init(rule, 2))
  np.testing.assert_array_equal(pair, [1, 0])
  one, _ = update(rule, observe(jacobians.generic(1, 5)), init(rule, 1))
  np.testing.assert_array_equal(one, [1])


@pytest.mark.slow
def test_krum_works_on_gramians_near_the_largest_number():
  rows = 2.0 + jacobians.generic(8, 11)
  observation = observe(rows)
  observation = observation._replace(gramian=observation.gramian * 1e35)
  rule = make('krum')
  weights, _ = update(rule, observation, init(rule, 8))
  np.testing.assert_array_equal(weights, krum_weights(rows, 0, 1))


@pytest.mark.slow
def test_krum_equals_that_of_torchjd():
  for f, m in ((0, 1), (1, 1), (1, 2)):
    rule = make('krum', num_byzantine=f, num_selected=m)
    for rows, expected in of_cases(f'Krum(f={f},m={m})'):
      rows = np.array(rows)
      if not np.any(rows, axis=1).all():
        continue  # which lets zero gradients take part
      weights, _ = update(rule, observe(rows), init(rule, len(rows)))
      # TorchJD sums distances without squaring, so it may select others.
      np.testing.assert_array_equal(weights, krum_weights(rows, f, m))
      np.testing.assert_array_equal(weights, expected)
