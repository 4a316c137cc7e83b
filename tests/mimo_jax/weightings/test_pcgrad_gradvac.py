"""PCGrad and GradVac, by their definitions, for every order of visits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import jacobians
from tests.mimo_jax.weightings.of_gradients import assert_one_of
from tests.mimo_jax.weightings.of_gradients import init
from tests.mimo_jax.weightings.of_gradients import make
from tests.mimo_jax.weightings.of_gradients import observe
from tests.mimo_jax.weightings.of_gradients import of_cases
from tests.mimo_jax.weightings.of_gradients import tolerance
from tests.mimo_jax.weightings.of_gradients import update


def orders_of(size):
  """Returns all orders in which each objective may visit the others."""
  others = [
    list(itertools.permutations([j for j in range(size) if j != i]))
    for i in range(size)
  ]
  return list(itertools.product(*others))


def pcgrad_direction(rows, orders):
  """Computes Algorithm 1 of the paper on the vectors themselves."""
  total = 0
  for row, order in zip(rows, orders, strict=True):
    h = row
    for j in order:
      if h @ rows[j] < 0:
        h = h - (h @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
    total = total + h
  return total


def gradvac_direction(rows, orders, targets, beta):
  """Computes the paper's rule on the vectors themselves."""
  lengths = np.linalg.norm(rows, axis=1)
  targets, total = targets.copy(), 0
  for i, order in enumerate(orders):
    h = rows[i]
    for j in order:
      target, length = targets[i, j], np.linalg.norm(h)
      cosine = h @ rows[j] / (length * lengths[j])
      if cosine < target:
        sine, target_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
        factor = target * sine - cosine * target_sine
        h = h + length * factor / (lengths[j] * target_sine) * rows[j]
      targets[i, j] = (1 - beta) * target + beta * cosine
    total = total + h
  return total, targets


def of_many_keys(rule, rows, key, number, **fields):
  """Returns weights and states after a step from states with these fields."""
  state = init(rule, len(rows))._replace(**fields)
  keys = jax.random.key_data(jax.random.split(key, number))
  return jax.jit(
    jax.vmap(lambda key: rule.update(observe(rows), state._replace(key=key)))
  )(keys)


def test_pcgrad_projects_in_every_order_equally_often(key):
  with jax.enable_x64(True):
    rows = jacobians.conflicting(3, 7) + 0.3 * jacobians.generic(3, 7)
    candidates = [pcgrad_direction(rows, order) for order in orders_of(3)]
    separations = [
      np.abs(one - other).max()
      for one, other in itertools.combinations(candidates, 2)
    ]
    assert min(separations) > 1e-3
    found, _ = of_many_keys(make('pcgrad'), rows, key, 1600)
    chosen = [
      assert_one_of(candidates, rows.T @ np.asarray(weights), 1e-10)
      for weights in found
    ]
    counts = np.bincount(chosen, minlength=8)
    assert np.all(np.abs(counts - 200) < 5 * np.sqrt(200 * 7 / 8)), counts


@pytest.mark.slow
def test_pcgrad_never_projects_a_gradient_on_itself(key):
  """Not even a gradient that projections have turned against itself."""
  rows = np.array([[0.0, -3, -3], [1, 2, 1], [-1, 1, 2]])
  turned = rows[0]
  for j in (1, 2):
    turned = turned - turned @ rows[j] / (rows[j] @ rows[j]) * rows[j]
  assert turned @ rows[0] < -1
  candidates = [pcgrad_direction(rows, order) for order in orders_of(3)]
  for weights in of_many_keys(make('pcgrad'), rows, key, 100)[0]:
    assert_one_of(candidates, rows.T @ np.asarray(weights, float), 1e-4)


def test_pcgrad_draws_new_orders_in_each_step_by_its_seed():
  rows = jacobians.conflicting(5, 9) + 0.3 * jacobians.generic(5, 9)
  rule = make('pcgrad', seed=3)
  first, state = update(rule, observe(rows), init(rule, 5))
  second, _ = update(rule, observe(rows), state)
  same, _ = update(rule, observe(rows), init(rule, 5))
  other = make('pcgrad', seed=4)
  other, _ = update(other, observe(rows), init(other, 5))
  np.testing.assert_array_equal(first, same)
  assert np.abs(first - second).max() > 1e-3
  assert np.abs(first - other).max() > 1e-3


@pytest.mark.slow
def test_pcgrad_is_the_sum_without_conflicts_and_weights_are_at_least_1():
  rule = make('pcgrad')
  for rows in jacobians.SAMPLES.values():
    weights, _ = update(rule, observe(rows), init(rule, len(rows)))
    present = np.any(rows, axis=1)
    assert np.min(weights[present | ~present.any()]) >= 1
    if np.min(rows @ rows.T) > 0:
      np.testing.assert_array_equal(weights, np.ones(len(rows)))


def test_pcgrad_equals_that_of_torchjd(x64):
  rule = make('pcgrad')
  for rows, expected in of_cases('PCGrad'):
    weights, _ = update(rule, observe(rows), init(rule, 2))
    # TorchJD gives a zero gradient a weight.
    expected = np.where(np.any(rows, axis=1), expected, 0)
    np.testing.assert_allclose(weights, expected, rtol=tolerance(x64, 1e-12))


def test_gradvac_follows_the_paper_in_every_order(key):
  with jax.enable_x64(True):
    rows = jacobians.conflicting(3, 7) + 0.6 * jacobians.generic(3, 7)
    targets = np.array([[0, 0.5, -0.2], [-0.1, 0, 0.4], [0.9, -0.3, 0]])
    candidates = [
      np.concatenate([direction, moved.ravel()])
      for direction, moved in (
        gradvac_direction(rows, order, targets, 0.3) for order in orders_of(3)
      )
    ]
    found, states = of_many_keys(
      make('gradvac', beta=0.3), rows, key, 200, targets=jnp.asarray(targets)
    )
    chosen = {
      assert_one_of(
        candidates,
        np.concatenate([rows.T @ np.asarray(weights), np.ravel(moved)]),
        1e-10,
      )
      for weights, moved in zip(found, states.targets, strict=True)
    }
    assert chosen == set(range(8))


@pytest.mark.slow
def test_gradvac_makes_no_correction_for_a_zero_gradient():
  rows = jacobians.with_row(jacobians.generic(3, 7), 1, np.zeros(7))
  rule = make('gradvac')
  state = init(rule, 3)._replace(targets=0.9 - 0.9 * jnp.eye(3))
  weights, after = update(rule, observe(rows), state)
  assert weights[1] == 0
  pair = init(rule, 2)._replace(targets=0.9 - 0.9 * jnp.eye(2))
  expected, _ = update(rule, observe(rows[[0, 2]]), pair)
  np.testing.assert_allclose(weights[jnp.array([0, 2])], expected, rtol=1e-5)
  np.testing.assert_allclose(after.targets[1], [0.9, 0, 0.9], rtol=1e-6)


@pytest.mark.slow
def test_gradvac_stays_finite_when_equal_gradients_diverge():
  rule = make('gradvac')
  twins = np.tile(jacobians.generic(1, 70), [64, 1])
  state = init(rule, 64)
  for _ in range(30):
    _, state = update(rule, observe(twins), state)
  assert np.max(state.targets) <= 1 - 0.9e-6
  assert np.min(state.targets + jnp.eye(64)) > 0.9999
  weights, state = update(rule, observe(jacobians.conflicting(64, 70)), state)
  assert np.all(np.isfinite(weights))
  assert np.all(np.isfinite(state.targets))
