"""Least squares and the cosine form; inputs that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import solvers
from tests import jacobians
from tests.mimo_jax.solvers import of_sizes as of

cosine_form = jax.jit(solvers.cosine_form)


def test_least_squares_is_that_of_numpy(x64):
  solve = jax.jit(solvers.least_squares)
  eps = np.finfo(np.float64 if x64 else np.float32).eps
  compared = 0
  for name in jacobians.SAMPLES:
    with jacobians.named(name) as rows:
      lengths = np.linalg.norm(rows, axis=1)
      units = rows / np.where(lengths > 0, lengths, 1)[:, None]
      matrix, target = units @ units.T, np.linspace(0.5, 2, len(rows))
      values = np.linalg.eigvalsh(matrix)
      cutoff = 4 * len(rows) * eps * values[-1]
      if np.any((values > cutoff / 100) & (values < 100 * cutoff)):
        continue  # too close to the cut-off to decide
      x, error = solve(jax.device_put(matrix), jax.device_put(target))
      expected = np.linalg.pinv(matrix, rcond=4 * len(rows) * eps) @ target
      least = values[values > cutoff].min() if values[-1] > 0 else 1
      largest = np.abs(expected).max()
      np.testing.assert_allclose(
        x, expected, rtol=0, atol=100 * eps / least * largest
      )
      np.testing.assert_allclose(
        error,
        np.abs(matrix @ expected - target).max(),
        rtol=0,
        atol=100 * eps / least * max(1, largest),
      )
      compared += 1
  assert compared > 15


def test_least_squares_is_exact_to_a_few_roundings_at_full_rank():
  """An eigendecomposition without refinement has ten times the error."""
  for name in ('five', 'conflicting'):
    rows = jacobians.SAMPLES[name]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    matrix = (units @ units.T).astype(np.float32)
    target = np.linspace(0.5, 2, len(rows)).astype(np.float32)
    expected = np.linalg.solve(matrix.astype(float), target)
    x, _ = jax.jit(solvers.least_squares)(matrix, target)
    np.testing.assert_allclose(
      x, expected, rtol=0, atol=4e-7 * max(abs(expected))
    )


def test_the_gramian_can_be_rebuilt_from_its_cosine_form(x64):
  rows = jacobians.SAMPLES['lengths_1e-3_to_1e3'] * 1e9
  gramian = jax.device_put(rows @ rows.T)
  form = jax.device_get(cosine_form(gramian))
  lengths = form.lengths * form.longest
  np.testing.assert_allclose(
    lengths[:, None] * form.cosines * lengths[None, :],
    gramian,
    rtol=1e-14 if x64 else 1e-6,
  )
  np.testing.assert_array_equal(np.diagonal(form.cosines), 1)
  np.testing.assert_allclose(form.lengths.max(), 1, rtol=1e-6)
  assert not form.is_zero.any()


def test_zero_rows_are_orthogonal_to_all_in_the_cosine_form():
  rows = jacobians.SAMPLES['two_zero_rows']
  form = jax.device_get(cosine_form(np.float32(rows @ rows.T)))
  np.testing.assert_array_equal(form.is_zero, [1, 0, 0, 1, 0])
  np.testing.assert_array_equal(form.cosines[0], [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(form.cosines[:, 3], [0, 0, 0, 1, 0])
  np.testing.assert_array_equal(form.lengths[[0, 3]], 1)
  nothing = jax.device_get(cosine_form(jnp.zeros([3, 3])))
  np.testing.assert_array_equal(nothing.cosines, np.eye(3))
  assert nothing.longest == 1


@pytest.mark.slow
@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_solvers_return_nan_for_inputs_that_are_not_finite(value):
  gramian = jnp.array([[2.0, 0.3, value], [0.3, 1.0, 0.1], [value, 0.1, 3.0]])
  ones = jnp.ones(3)
  for weights in (
    of.min_norm(gramian),
    of.dual_cone(gramian, ones),
    of.max_min_in_ball(gramian, ones / 3, 0.5),
    of.alpha_fair(gramian),
    solvers.least_squares(gramian, ones)[0],
  ):
    assert not np.any(np.isfinite(weights))
