"""Non-negative quadratic programs; and all solvers in full precision."""

import inspect

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mimo_jax import solvers
from tests import jacobians
from tests.mimo_jax.solvers import of_sizes as of


def program(rows):
  """Makes B with unit rows, and b in the range of A = BBᵀ: it is bounded."""
  rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return rows, rows @ jacobians.generic(1, rows.shape[1], seed=5)[0]


def programs(size):
  """Draws bounded programs that stay bounded when rounded to float32.

  Rows with a positive combination of zero are left out, because b is in the
  range of A only in exact arithmetic.
  """
  for rows in of.of_size(size):
    if not jacobians.is_stationary(rows):
      yield program(rows)


@of.each_size
def test_qp_meets_the_optimality_conditions(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows, linear in programs(size):
    matrix, linear = (rows @ rows.T).astype(dtype), linear.astype(dtype)
    x = np.asarray(of.non_negative_qp(matrix, linear))
    assert x.dtype == dtype
    slack = matrix.astype(np.float64) @ x - linear
    tol = 16 * np.finfo(dtype).eps * np.abs(linear).max() * max(1, x.sum())
    assert x.min() >= 0
    assert slack.min() >= -tol
    assert abs(x @ slack) <= tol * x.sum()


@of.each_size
def test_qp_equals_the_least_squares_of_scipy(size):
  # ½‖Bᵀx − c‖² has A = BBᵀ, b = Bc: compare Bᵀx, which is always unique.
  for rows, _ in map(program, of.of_size(size)):
    seed = rows.shape[1]
    target = jacobians.generic(1, seed, seed=5)[0]
    expected, _ = scipy.optimize.nnls(rows.T, target, maxiter=100 * size)
    with jax.enable_x64(True):
      x = np.asarray(of.non_negative_qp(rows @ rows.T, rows @ target))
    np.testing.assert_allclose(
      rows.T @ x,
      rows.T @ expected,
      rtol=0,
      atol=1e-11 * np.linalg.norm(target) * max(1, expected.sum()),
    )


@pytest.mark.slow
@of.few
@hypothesis.given(
  rows=hnp.arrays(
    np.float64, (4, 3), elements=st.integers(-3, 3).map(float)
  ),
  target=hnp.arrays(
    np.float64, (3,), elements=st.integers(-4, 4).map(float)
  ),
)  # fmt: skip
@of.each_dtype
def test_qp_is_optimal_on_degenerate_programs(dtype, rows, target):
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows / np.where(lengths > 0, lengths, 1)
  matrix, linear = (rows @ rows.T).astype(dtype), (rows @ target).astype(dtype)
  with jax.enable_x64(dtype == np.float64):
    x = np.asarray(of.non_negative_qp(matrix, linear))
  slack = matrix.astype(np.float64) @ x - linear
  tol = 32 * np.finfo(dtype).eps * np.abs(linear).max() * max(1, x.sum())
  assert x.min() >= 0
  assert slack.min() >= -tol
  assert abs(x @ slack) <= tol * x.sum()


def test_qp_without_a_descent_direction_is_zero(x64):
  matrix = jnp.asarray(jacobians.generic(4, 6) @ jacobians.generic(4, 6).T)
  x = of.non_negative_qp(matrix, jnp.array([-1.0, -0.2, 0.0, -3.0]))
  np.testing.assert_array_equal(x, np.zeros(4))
  assert x.dtype == (jnp.float64 if x64 else jnp.float32)


def calls(solve):
  """Takes the arguments of five problems, as many as the solver has."""
  count = len(inspect.getfullargspec(inspect.unwrap(solve)).args)
  for rows, linear in programs(5):
    yield (jax.device_put(rows @ rows.T), jax.device_put(linear), 0.5)[:count]


@pytest.mark.parametrize('solver', solvers.__all__)
def test_solvers_multiply_in_full_precision(solver):
  # A GPU's default rounds the factors to 10 bits; a TPU's to 8.
  solve = getattr(solvers, solver)
  program = str(jax.make_jaxpr(solve)(*next(calls(solve))))
  products = program.count('dot_general[')
  assert bool(products) == (solver not in ('cosine_form', 'simplex_projection'))
  full = 'precision=(Precision.HIGHEST, Precision.HIGHEST)'
  assert program.count(full) == products
