"""The projection on the dual cone, and the best direction in a ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import solvers
from tests import checks
from tests import jacobians
from tests import properties
from tests.mimo_jax.solvers import of_sizes as of


@of.each_size
def test_dual_cone_meets_the_optimality_conditions(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows in of.of_size(size):
    lower = np.linspace(0.2, 1, size).astype(dtype)
    weights = of.dual_cone((rows @ rows.T).astype(dtype), lower)
    assert weights.dtype == dtype
    of.assert_projected(rows, lower, weights, 32 * of.rounding(dtype, rows))


def test_dual_cone_of_two_is_the_closed_form(x64):
  gramian = jnp.array([[4.0, -3.0], [-3.0, 9.0]])
  for lower in ([1.0, 0.2], [0.1, 1.0], [1.0, 1.0], [0.0, 0.0]):
    first = max(lower[0], 3 * lower[1] / 4)
    second = max(lower[1], 3 * lower[0] / 9)
    np.testing.assert_allclose(
      of.dual_cone(gramian, jnp.array(lower)),
      [first, second],
      rtol=1e-14 if x64 else 1e-6,
    )


@of.each_dtype
@pytest.mark.parametrize('size', [3, checks.slow(8)])
def test_dual_cone_of_stationary_rows_is_zero_to_rounding(size, dtype):
  """Zero is in their hull: any column may come, and the last depends."""
  random = np.random.default_rng(size)
  rows = random.normal(size=(1000, size, size + 1))
  shares = random.dirichlet(np.ones(size), 1000)
  rest = np.einsum('nk,nkp->np', shares[:, :-1], rows[:, :-1])
  rows[:, -1] = -rest / shares[:, -1:]
  gramians = (rows @ rows.transpose(0, 2, 1)).astype(dtype)
  lower = np.full(size, 1 / size, dtype)
  with jax.enable_x64(dtype == np.float64):
    weights = jax.jit(jax.vmap(solvers.dual_cone, (0, None)))(gramians, lower)
  weights = np.asarray(weights, np.float64)
  assert np.all(weights >= lower)
  directions = np.einsum('nk,nkp->np', weights, rows)
  means = np.linalg.norm(rows, axis=2).mean(axis=1)
  sizes = np.linalg.norm(directions, axis=1) / means
  # By rounding G, zero leaves the hull: of thin ones, rarely, by far.
  eps = np.finfo(dtype).eps
  assert np.median(sizes) <= 1e3 * eps
  assert np.max(sizes) <= (0.9 if dtype == np.float32 else 1e-3), sizes.max()


@of.each_size
def test_ball_meets_the_optimality_conditions(size, x64):
  dtype = np.float64 if x64 else np.float32
  center = np.full(size, 1 / size, dtype)
  for rows in of.of_size(size):
    for radius in (0.2, 0.7, 1.5):
      weights = of.max_min_in_ball(
        (rows @ rows.T).astype(dtype), center, radius
      )
      assert weights.dtype == dtype
      properties.assert_best_in_ball(
        rows, np.asarray(weights, float), radius, 16 * of.rounding(dtype, rows)
      )


@pytest.mark.parametrize('kind', ['spread of 1e8', checks.slow('ties')])
def test_ball_in_float32_is_that_in_float64(kind):
  """Slopes of very different sizes, and rows that become tight together."""
  random = np.random.default_rng(3)
  rows = random.integers(-2, 3, (20_000, 8, 8)).astype(float)
  if kind != 'ties':
    rows = random.normal(size=(4000, 8, 8))
    rows *= 10 ** random.uniform(-4, 4, (4000, 8, 1))
  center = np.full(8, 1 / 8, np.float32)
  solve = jax.jit(jax.vmap(lambda g: solvers.max_min_in_ball(g, center, 0.5)))
  gramians = rows @ rows.transpose(0, 2, 1)
  with jax.enable_x64(True):
    exact = np.asarray(solve(gramians))
  error = np.asarray(solve(gramians.astype(np.float32)), float) - exact
  lengths = np.linalg.norm(np.einsum('nk,nkp->np', error, rows), axis=1)
  means = np.linalg.norm(rows, axis=2).mean(axis=1)
  worst = np.max(lengths / means)
  assert worst <= 1e-3


@pytest.mark.slow
def test_ball_of_zero_rows_is_its_centre_without_a_nan_on_the_way():
  with jax.debug_nans(True):
    weights = solvers.max_min_in_ball(jnp.zeros((2, 2)), jnp.ones(2), 0.5)
  assert weights.tolist() == [1, 1]


@pytest.mark.slow
def test_ball_stops_at_the_ceiling(x64):
  rows = jacobians.SAMPLES['five']
  gramian, center = jax.device_put(rows @ rows.T), jnp.full(5, 0.2)
  whole = rows @ rows.T @ np.asarray(of.max_min_in_ball(gramian, center, 0.5))
  level = 0.6 * whole.min() + 0.4 * (rows @ rows.mean(0)).min()
  weights = of.max_min_in_ball(gramian, center, 0.5, ceiling=level)
  gains = rows @ rows.T @ np.asarray(weights, float)
  np.testing.assert_allclose(gains.min(), level, rtol=1e-10 if x64 else 1e-4)
  # It is the nearest such direction to the mean: only tight rows were added.
  tight = np.asarray(weights) > 0.2 + 1e-4
  assert tight.any()
  np.testing.assert_allclose(gains[tight], level, rtol=1e-10 if x64 else 1e-4)
