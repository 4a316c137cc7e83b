"""MoDo and SDMGrad, by projected steps in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import solvers
from mimo_jax import weightings
from tests.mimo_jax.weightings import of_gradients as of

_project = jax.jit(solvers.simplex_projection)


@pytest.mark.parametrize('size', [1, 2, 5, 64])
def test_simplex_projection_meets_the_optimality_conditions(size, x64):
  random = np.random.RandomState(size)
  eps = np.finfo(np.float64 if x64 else np.float32).eps
  for scale, shift in ((0.1, 0), (1, 3), (30, -7), (1e10, 0), (0, 5)):
    point = np.asarray(
      jnp.asarray(scale * random.normal(size=size) + shift), float
    )
    found = np.asarray(_project(jax.device_put(point)), float)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(), 1, rtol=4 * size * eps)
    # x − y is the same where x > 0, and no less elsewhere.
    slack = found - point
    threshold = slack[found > 0]
    rounding = 4 * size * eps * (1 + np.abs(point).max())
    assert np.ptp(threshold) <= rounding
    assert np.all(slack >= threshold.max() - rounding)
    again = _project(jax.device_put(found))
    np.testing.assert_allclose(again, found, rtol=0, atol=4 * size * eps)


def test_modo_takes_one_projected_step_from_its_last_weights():
  with jax.enable_x64(True):
    rule = of.make('modo', step_size=0.02, regularization=0.3)
    state, weights = of.init(rule, 4), np.full(4, 0.25)
    for seed in range(5):
      matrix = of.cross_gramian(4, seed)
      assert np.abs(matrix - matrix.T).max() > 0.5
      gradient = matrix @ weights + 0.3 * weights
      weights = of.projected(weights - 0.02 * gradient)
      found, state = of.update(rule, of.cross(matrix), state)
      np.testing.assert_allclose(found, weights, rtol=0, atol=1e-6)
    assert np.ptp(weights) > 0.1


def sdmgrad_w(matrix, start, step_size, momentum, num_steps, pull, preferred):
  """Runs the authors' loop."""
  scale = np.mean(np.sqrt(np.maximum(np.diagonal(matrix), 0)))
  scaled, w, velocity = matrix / scale**2, start, 0
  for _ in range(num_steps):
    velocity = momentum * velocity + scaled @ (w + pull * preferred)
    w = of.projected(w - step_size * velocity)
  return w


def test_sdmgrad_descends_with_momentum_from_its_last_weights():
  with jax.enable_x64(True):
    preferred = np.array([0.5, 0.1, 0.15, 0.25])
    rule = weightings.sdmgrad(
      step_size=0.2,
      momentum=0.6,
      num_steps=3,
      regularization=0.7,
      preference=preferred,
    )
    state, w = of.init(rule, 4), np.full(4, 0.25)
    for seed in range(3):
      matrix = of.cross_gramian(4, seed)
      w = sdmgrad_w(matrix, w, 0.2, 0.6, 3, 0.7, preferred)
      weights, state = of.update(rule, of.cross(matrix), state)
      np.testing.assert_allclose(state.shares, w, rtol=0, atol=1e-5)
      expected = (w + 0.7 * preferred) / 1.7
      np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5)
    assert np.ptp(w) > 0.1


@pytest.mark.parametrize('diagonal', [0.0, -1.0, 1e-30])
def test_sdmgrad_keeps_its_weights_if_batches_have_nothing_in_common(diagonal):
  matrix = of.cross_gramian(3)
  matrix[np.arange(3), np.arange(3)] = diagonal
  rule = of.make('sdmgrad')
  w = jnp.array([0.2, 0.7, 0.1])
  weights, state = of.update(
    rule, of.cross(matrix), of.init(rule, 3)._replace(shares=w)
  )
  np.testing.assert_allclose(state.shares, w, rtol=1e-5)
  np.testing.assert_allclose(weights, (w + 0.1) / 1.3, rtol=1e-5)
