"""The solvers, by their optimality conditions and against outside solvers."""

import functools
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
from tests import properties
from tests import reference

# Quick: two, which are odd and even; slow: the ends, and many.
each_size = pytest.mark.parametrize(
  'size',
  [2, 5, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 3, 7, 16, 64))],
)
REFERENCE = reference.read('mgda')

few = hypothesis.settings(
  max_examples=60, deadline=None, derandomize=True, database=None
)
each_dtype = pytest.mark.parametrize('dtype', [np.float32, np.float64])

min_norm = jax.jit(solvers.min_norm)
non_negative_qp = jax.jit(solvers.non_negative_qp)
dual_cone = jax.jit(solvers.dual_cone)
max_min_in_ball = jax.jit(solvers.max_min_in_ball)
alpha_fair = jax.jit(solvers.alpha_fair)


def of_size(size):
  """Jacobians with K rows: more and fewer params, each kind of degeneracy."""
  yield jacobians.generic(size, 2 * size + 3)
  yield jacobians.generic(size, 4)
  if size > 1:
    yield (
      jacobians.generic(size, size + 2) * np.logspace(-3, 3, size)[::-1, None]
    )
    yield jacobians.conflicting(size, size + 3)
    yield jacobians.stationary(size, size + 4)
    yield jacobians.affinely_dependent(size, size + 1)
    yield jacobians.rank_deficient(size, size + 2, rank=(size + 1) // 2)
    yield np.repeat(jacobians.generic(size, size + 5), 2, axis=0)[:size]


def rounding(dtype, rows):
  return 8 * jnp.finfo(dtype).eps * np.sqrt(len(rows))


@each_size
def test_min_norm_is_optimal_and_the_vector_that_scipy_finds(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows in of_size(size):
    weights = min_norm((rows @ rows.T).astype(dtype))
    assert weights.dtype == dtype
    properties.assert_shortest(rows, weights, rounding(dtype, rows))
    # What cancels in the sum bounds how much of the result can be right.
    weights = np.asarray(weights, np.float64)
    np.testing.assert_allclose(
      rows.T @ weights,
      jacobians.shortest(rows),
      rtol=0,
      atol=200 * jnp.finfo(dtype).eps * np.linalg.norm(rows, axis=1) @ weights,
    )


@pytest.mark.slow
def test_min_norm_is_the_published_vector(x64):
  for name, case in REFERENCE['cases'].items():
    rows, vector = map(np.asarray, case.values())
    weights = np.asarray(min_norm(jnp.asarray(rows @ rows.T)), np.float64)
    np.testing.assert_allclose(
      rows.T @ weights,
      vector,
      rtol=0,
      atol=(1e-9 if x64 else 1e-4) * np.linalg.norm(rows, axis=1).min(),
      err_msg=name,
    )


@pytest.mark.slow
@few
@hypothesis.given(
  rows=jacobians.hulls(),
  exponent=st.integers(-12, 12),
  radius=st.floats(0, 2),
  alpha=st.floats(1, 3),
)
@each_dtype
def test_solvers_are_optimal_on_any_gramian(
  dtype, rows, exponent, radius, alpha
):
  rows = rows * 10.0**exponent
  gramian = (rows @ rows.T).astype(dtype)
  lower = np.linspace(1, 0, len(rows)).astype(dtype)
  center = np.full(len(rows), 1 / len(rows), dtype)
  with jax.enable_x64(dtype == np.float64):
    shortest = min_norm(gramian)
    projected = dual_cone(gramian, lower)
    best = np.asarray(max_min_in_ball(gramian, center, radius), float)
    fair = alpha_fair(gramian, alpha)
  tolerance = rounding(dtype, rows)
  properties.assert_shortest(rows, shortest, tolerance)
  assert_projected(rows, lower, projected, 32 * tolerance)
  properties.assert_best_in_ball(rows, best, radius, 16 * tolerance)
  assert np.all(np.isfinite(fair))
  assert_fair(rows, fair, float(dtype(alpha)), dtype)


@pytest.mark.slow
@few
@hypothesis.given(rows=jacobians.hulls(), exponent=st.integers(-12, 12))
def test_min_norm_does_not_depend_on_the_scale(rows, exponent):
  # A power of two, so that not even rounding differs.
  gramian = (rows @ rows.T).astype(np.float32)
  scaled = gramian * np.float32(4.0 ** (exponent * 3))
  np.testing.assert_array_equal(min_norm(scaled), min_norm(gramian))


def assert_same_direction(rows, weights, other_rows, other_weights, tol):
  weights, other = (np.asarray(w, np.float64) for w in (weights, other_weights))
  summed = max(
    np.linalg.norm(rows, axis=1) @ weights,
    np.linalg.norm(other_rows, axis=1) @ other,
  )
  np.testing.assert_allclose(
    other_rows.T @ other, rows.T @ weights, rtol=0, atol=tol * summed
  )


@pytest.mark.slow
def test_min_norm_depends_on_no_order_and_no_row_that_is_in_the_hull(x64):
  tol = 1e-12 if x64 else 3e-6
  for name in jacobians.SAMPLES:
    with jacobians.named(name) as rows:
      size = len(rows)
      mixture = np.arange(1.0, size + 1) @ rows / (size * (size + 1) / 2)
      weights = min_norm(jnp.asarray(rows @ rows.T))
      for other in (
        rows[np.random.RandomState(1).permutation(size)],
        *(
          np.vstack([rows[:1], row, rows[1:]])
          for row in (*rows[:2], rows[-1], mixture)
        ),
      ):
        again = min_norm(jnp.asarray(other @ other.T))
        assert_same_direction(rows, weights, other, again, tol)


@pytest.mark.slow
@few
@hypothesis.given(
  first=st.floats(1e-3, 1e3), second=st.floats(1e-3, 1e3),
  cosine=st.floats(-1, 1),
)  # fmt: skip
def test_min_norm_of_two_is_the_closed_form(first, second, cosine):
  inner = first * second * cosine
  gramian = np.array([[first**2, inner], [inner, second**2]])
  span = first**2 + second**2 - 2 * inner
  share = np.clip((second**2 - inner) / span, 0, 1) if span > 0 else 0.5
  with jax.enable_x64(True):
    weights = np.asarray(min_norm(gramian))
  # Near span = 0 both ends are the same point, and any share is right.
  tol = 1e-14 * (first**2 + second**2) / span if span > 0 else 1
  np.testing.assert_allclose(weights[0], share, rtol=0, atol=tol + 1e-14)
  np.testing.assert_allclose(weights.sum(), 1, rtol=1e-14)


def test_min_norm_of_orthogonal_rows_is_inverse_to_their_squares(x64):
  squares = np.array([3.0, 0.02, 7.0, 1e4])
  weights = min_norm(jnp.asarray(np.diag(squares)))
  expected = 1 / squares / np.sum(1 / squares)
  np.testing.assert_allclose(weights, expected, rtol=1e-14 if x64 else 1e-6)


def test_min_norm_gives_zero_rows_all_the_weight(x64):
  rows = jacobians.SAMPLES['two_zero_rows']
  weights = min_norm(jnp.asarray(rows @ rows.T))
  np.testing.assert_array_equal(weights, [0.5, 0, 0, 0.5, 0])
  assert weights.dtype == (jnp.float64 if x64 else jnp.float32)
  np.testing.assert_array_equal(min_norm(jnp.zeros([4, 4])), [0.25] * 4)


@pytest.mark.slow
def test_min_norm_under_vmap_and_jit_is_the_eager_loop(x64):
  dtype = np.float64 if x64 else np.float32
  gramians = np.stack([(rows @ rows.T).astype(dtype) for rows in of_size(3)])
  together = jax.jit(jax.vmap(solvers.min_norm))(gramians)
  # Degenerate ones may take another of the equivalent weights: compare d.
  for rows, gramian, one in zip(of_size(3), gramians, together, strict=True):
    alone = solvers.min_norm(jnp.asarray(gramian))
    assert_same_direction(rows, one, rows, alone, 1e-12 if x64 else 3e-6)


# Non-negative quadratic programs.


def program(rows):
  """B with unit rows, and b in the range of A = BBᵀ: it is bounded."""
  rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return rows, rows @ jacobians.generic(1, rows.shape[1], seed=5)[0]


def programs(size):
  """Bounded programs that rounding to float32 leaves bounded.

  Rows with a positive combination that is zero are left out: b is in the range
  of A in exact arithmetic only.
  """
  for rows in of_size(size):
    if not jacobians.is_stationary(rows):
      yield program(rows)


@each_size
def test_qp_meets_the_optimality_conditions(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows, linear in programs(size):
    matrix, linear = (rows @ rows.T).astype(dtype), linear.astype(dtype)
    x = np.asarray(non_negative_qp(matrix, linear))
    assert x.dtype == dtype
    slack = matrix.astype(np.float64) @ x - linear
    tol = 16 * np.finfo(dtype).eps * np.abs(linear).max() * max(1, x.sum())
    assert x.min() >= 0
    assert slack.min() >= -tol
    assert abs(x @ slack) <= tol * x.sum()


@each_size
def test_qp_finds_the_least_squares_that_scipy_finds(size):
  # ½‖Bᵀx − c‖² has A = BBᵀ, b = Bc: compare Bᵀx, which is always unique.
  for rows, _ in map(program, of_size(size)):
    seed = rows.shape[1]
    target = jacobians.generic(1, seed, seed=5)[0]
    expected, _ = scipy.optimize.nnls(rows.T, target, maxiter=100 * size)
    with jax.enable_x64(True):
      x = np.asarray(non_negative_qp(rows @ rows.T, rows @ target))
    np.testing.assert_allclose(
      rows.T @ x,
      rows.T @ expected,
      rtol=0,
      atol=1e-11 * np.linalg.norm(target) * max(1, expected.sum()),
    )


@pytest.mark.slow
@pytest.mark.parametrize('size', (2, 5))
def test_qp_is_not_above_what_scipy_slsqp_finds(size):
  for rows, linear in programs(size):
    matrix = rows @ rows.T

    def value(x, matrix=matrix, linear=linear):
      return 0.5 * x @ matrix @ x - linear @ x

    found = scipy.optimize.minimize(
      value,
      np.full(size, 0.3),
      jac=lambda x, matrix=matrix, linear=linear: matrix @ x - linear,
      bounds=[(0, None)] * size,
      method='SLSQP',
      options={'ftol': 1e-14, 'maxiter': 1000},
    )
    with jax.enable_x64(True):
      ours = value(np.asarray(non_negative_qp(matrix, linear)))
    assert ours <= found.fun + 1e-13
    np.testing.assert_allclose(ours, found.fun, rtol=0, atol=1e-7)


@pytest.mark.slow
@few
@hypothesis.given(
  rows=hnp.arrays(
    np.float64, (4, 3), elements=st.integers(-3, 3).map(float)
  ),
  target=hnp.arrays(
    np.float64, (3,), elements=st.integers(-4, 4).map(float)
  ),
)  # fmt: skip
@each_dtype
def test_qp_is_optimal_on_degenerate_programs(dtype, rows, target):
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows / np.where(lengths > 0, lengths, 1)
  matrix, linear = (rows @ rows.T).astype(dtype), (rows @ target).astype(dtype)
  with jax.enable_x64(dtype == np.float64):
    x = np.asarray(non_negative_qp(matrix, linear))
  slack = matrix.astype(np.float64) @ x - linear
  tol = 32 * np.finfo(dtype).eps * np.abs(linear).max() * max(1, x.sum())
  assert x.min() >= 0
  assert slack.min() >= -tol
  assert abs(x @ slack) <= tol * x.sum()


def test_qp_without_active_bounds_is_the_linear_system(x64):
  rows = jacobians.generic(5, 9) / 3
  solution = np.array([0.7, 2.0, 0.1, 1.3, 0.4])
  matrix = rows @ rows.T
  x = non_negative_qp(jnp.asarray(matrix), jnp.asarray(matrix @ solution))
  np.testing.assert_allclose(x, solution, rtol=1e-12 if x64 else 1e-4)


def test_qp_that_descends_nowhere_is_zero(x64):
  matrix = jnp.asarray(jacobians.generic(4, 6) @ jacobians.generic(4, 6).T)
  x = non_negative_qp(matrix, jnp.array([-1.0, -0.2, 0.0, -3.0]))
  np.testing.assert_array_equal(x, np.zeros(4))
  assert x.dtype == (jnp.float64 if x64 else jnp.float32)


@pytest.mark.slow
def test_qp_under_vmap_and_jit_is_the_eager_loop():
  with jax.enable_x64(True):
    rows, linear = map(np.stack, zip(*padded_programs(), strict=True))
    matrices = rows @ np.swapaxes(rows, 1, 2)
    together = jax.jit(jax.vmap(solvers.non_negative_qp))(matrices, linear)
    for each in zip(matrices, linear, together, rows, strict=True):
      matrix, b, one, row = each
      eager = solvers.non_negative_qp(jnp.asarray(matrix), jnp.asarray(b))
      np.testing.assert_allclose(row.T @ one, row.T @ eager, atol=1e-12)


def padded_programs():
  """Programs of three variables, with zeros to the same number of columns."""
  for rows, linear in programs(3):
    yield np.pad(rows, [(0, 0), (0, 9 - rows.shape[1])]), linear


def calls(solve):
  """Arguments of five programs, as many as the solver takes."""
  count = len(inspect.getfullargspec(inspect.unwrap(solve)).args)
  for rows, linear in programs(5):
    yield (jnp.asarray(rows @ rows.T), jnp.asarray(linear), 0.5)[:count]


@pytest.mark.slow
@pytest.mark.parametrize('solver', solvers.__all__)
def test_solvers_trace_once(solver):
  solve, traces = getattr(solvers, solver), []

  @functools.partial(jax.jit)
  def traced(*args):
    traces.append(1)
    return solve(*args)

  for arguments in calls(solve):
    traced(*arguments)
  assert len(traces) == 1


@pytest.mark.parametrize('solver', solvers.__all__)
def test_solvers_multiply_in_full_precision(solver):
  # A GPU's default rounds the factors to 10 bits; a TPU's to 8.
  solve = getattr(solvers, solver)
  program = str(jax.make_jaxpr(solve)(*next(calls(solve))))
  products = program.count('dot_general[')
  assert bool(products) == (solver not in ('cosine_form', 'simplex_projection'))
  full = 'precision=(Precision.HIGHEST, Precision.HIGHEST)'
  assert program.count(full) == products


# The dual cone.


def assert_projected(rows, lower, weights, tolerance):
  """Weights v ≥ u, G v ≥ 0, (v − u)ᵀ G v = 0, relative to what is summed."""
  weights = np.asarray(weights, np.float64)
  lengths = np.linalg.norm(rows, axis=1)
  summed = lengths @ np.abs(weights)
  gains = rows @ (rows.T @ weights)
  assert np.all(weights >= lower)
  assert np.all(gains >= -tolerance * lengths * summed)
  # Of zero rows any weight will do; they keep theirs.
  np.testing.assert_array_equal(weights[lengths == 0], lower[lengths == 0])
  assert abs((weights - lower) @ gains) <= tolerance * summed**2


@each_size
def test_dual_cone_meets_the_optimality_conditions(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows in of_size(size):
    lower = np.linspace(0.2, 1, size).astype(dtype)
    weights = dual_cone((rows @ rows.T).astype(dtype), lower)
    assert weights.dtype == dtype
    assert_projected(rows, lower, weights, 32 * rounding(dtype, rows))


@pytest.mark.slow
def test_dual_cone_is_the_projection_that_scipy_finds(x64):
  """By Moreau: x + Uᵀy with y ≥ 0 the least squares of −x, on the rows."""
  for name in jacobians.SAMPLES:
    with jacobians.named(name) as rows:
      lengths = np.linalg.norm(rows, axis=1)
      units = rows / np.where(lengths > 0, lengths, 1)[:, None]
      lower = np.linspace(0.3, 1, len(rows))
      point = rows.T @ lower
      multipliers, _ = scipy.optimize.nnls(units.T, -point, maxiter=1000)
      weights = np.asarray(dual_cone(jnp.asarray(rows @ rows.T), lower), float)
      np.testing.assert_allclose(
        rows.T @ weights,
        point + units.T @ multipliers,
        rtol=0,
        atol=(1e-12 if x64 else 2e-5) * (lengths @ weights),
      )


def test_dual_cone_of_two_is_the_closed_form(x64):
  gramian = jnp.array([[4.0, -3.0], [-3.0, 9.0]])
  for lower in ([1.0, 0.2], [0.1, 1.0], [1.0, 1.0], [0.0, 0.0]):
    first = max(lower[0], 3 * lower[1] / 4)
    second = max(lower[1], 3 * lower[0] / 9)
    np.testing.assert_allclose(
      dual_cone(gramian, jnp.array(lower)),
      [first, second],
      rtol=1e-14 if x64 else 1e-6,
    )


# The ball.


@each_size
def test_ball_meets_the_optimality_conditions(size, x64):
  dtype = np.float64 if x64 else np.float32
  center = np.full(size, 1 / size, dtype)
  for rows in of_size(size):
    for radius in (0.2, 0.7, 1.5):
      weights = max_min_in_ball((rows @ rows.T).astype(dtype), center, radius)
      assert weights.dtype == dtype
      properties.assert_best_in_ball(
        rows, np.asarray(weights, float), radius, 16 * rounding(dtype, rows)
      )


@pytest.mark.slow
def test_ball_is_not_below_what_scipy_slsqp_finds():
  """The primal problem, max t with gᵢᵀd ≥ t in the ball, by another way."""
  for name in ('three', 'five', 'conflicting', 'more_rows_than_params'):
    rows = jacobians.SAMPLES[name]
    size, params = rows.shape
    mean = rows.mean(0)
    for radius in (0.3, 0.8):
      found = scipy.optimize.minimize(
        lambda z: -z[-1],
        np.append(mean, (rows @ mean).min() - 0.1),
        constraints=[
          {
            'type': 'ineq',
            'fun': lambda z, rows=rows: rows @ z[:-1] - z[-1],
          },
          {
            'type': 'ineq',
            'fun': lambda z, mean=mean, radius=radius: (
              radius**2 * mean @ mean - np.sum((z[:-1] - mean) ** 2)
            ),
          },
        ],
        method='SLSQP',
        options={'ftol': 1e-12, 'maxiter': 1000},
      )
      assert found.x.shape == (params + 1,)
      with jax.enable_x64(True):
        weights = np.asarray(
          max_min_in_ball(
            jnp.asarray(rows @ rows.T), jnp.full(size, 1 / size), radius
          )
        )
      level = (rows @ rows.T @ weights).min()
      np.testing.assert_allclose(level, -found.fun, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_ball_below_a_ceiling_asks_for_no_more(x64):
  rows = jacobians.SAMPLES['five']
  gramian, center = jnp.asarray(rows @ rows.T), jnp.full(5, 0.2)
  whole = rows @ rows.T @ np.asarray(max_min_in_ball(gramian, center, 0.5))
  level = 0.6 * whole.min() + 0.4 * (rows @ rows.mean(0)).min()
  weights = max_min_in_ball(gramian, center, 0.5, ceiling=level)
  gains = rows @ rows.T @ np.asarray(weights, float)
  np.testing.assert_allclose(gains.min(), level, rtol=1e-10 if x64 else 1e-4)
  # The nearest such direction to the mean: only tight rows have been added.
  tight = np.asarray(weights) > 0.2 + 1e-4
  assert tight.any()
  np.testing.assert_allclose(gains[tight], level, rtol=1e-10 if x64 else 1e-4)


# The alpha-fair equations.


def assert_fair(rows, weights, alpha, dtype):
  """aᵢ (G a)ᵢ^α = 1, as far as rounding of C can tell; or no solution."""
  eps = np.finfo(dtype).eps
  weights = np.asarray(weights, np.float64)
  lengths = np.linalg.norm(rows, axis=1)
  used = lengths > 0
  assert np.all(weights[~used] == 0)
  if not np.any(weights):
    if used.any():
      units = rows[used] / lengths[used][:, None]
      shortest = np.linalg.norm(jacobians.shortest(units))
      assert shortest <= 16 * np.sqrt(used.sum() * eps)
    return
  assert np.all(weights[used] > 0)
  gains = (rows @ (rows.T @ weights))[used]
  # Each gain is right to a part of the lengths that it is summed from.
  relative = eps * lengths[used] * (lengths @ weights) / np.abs(gains)
  # Newton's steps see all gains together, each over the root of its aᵢ(Ga)ᵢ.
  push = weights[used] * np.abs(gains)
  spread = np.sqrt(push.max() / push)
  residual = np.abs(weights[used] * np.abs(gains) ** alpha - 1)
  allowed = 1e3 * (1 + alpha) * (relative * spread + eps)
  assert np.all(residual <= np.maximum(allowed, 1e-13)), (residual, allowed)


@each_size
def test_fair_weights_solve_their_equation(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows in of_size(size):
    for alpha in (0.5, 1.0, 2.0):
      if alpha < 1 and jacobians.is_stationary(rows):
        continue  # d has a limit that is not zero while weights diverge
      weights = alpha_fair((rows @ rows.T).astype(dtype), alpha)
      assert weights.dtype == dtype
      assert_fair(rows, weights, alpha, dtype)


def test_fair_weights_of_orthogonal_rows_are_the_closed_form(x64):
  squares = np.array([3.0, 0.02, 7.0, 1e4])
  for alpha in (0.5, 1.0, 3.0):
    np.testing.assert_allclose(
      alpha_fair(jnp.asarray(np.diag(squares)), alpha),
      squares ** (-alpha / (1 + alpha)),
      rtol=1e-13 if x64 else 1e-5,
    )


@pytest.mark.slow
def test_fair_weights_minimise_their_potential():
  """½ aᵀGa − Σ log a has no lower value where scipy looks."""
  rows = jacobians.SAMPLES['conflicting']
  gramian = rows @ rows.T

  def value(log_weights):
    weights = np.exp(log_weights)
    return 0.5 * weights @ gramian @ weights - log_weights.sum()

  found = scipy.optimize.minimize(value, np.zeros(4), method='BFGS')
  with jax.enable_x64(True):
    ours = value(np.log(np.asarray(alpha_fair(jnp.asarray(gramian)))))
  assert ours <= found.fun + 1e-12


# Least squares, and cosines.


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
        continue  # too near the cut-off to say which side it is on
      x, error = solve(jnp.asarray(matrix), jnp.asarray(target))
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


def test_least_squares_is_right_to_a_few_roundings_where_the_rank_is_full():
  """Which an eigendecomposition alone is not: it is ten times as far off."""
  for name in ('five', 'conflicting'):
    rows = jacobians.SAMPLES[name]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    matrix = (units @ units.T).astype(np.float32)
    target = np.linspace(0.5, 2, len(rows)).astype(np.float32)
    expected = np.linalg.solve(matrix.astype(float), target)
    x, _ = solvers.least_squares(jnp.asarray(matrix), jnp.asarray(target))
    np.testing.assert_allclose(
      x, expected, rtol=0, atol=4e-7 * max(abs(expected))
    )


def test_cosine_form_puts_the_gramian_together_again(x64):
  rows = jacobians.SAMPLES['lengths_1e-3_to_1e3'] * 1e9
  gramian = jnp.asarray(rows @ rows.T)
  form = solvers.cosine_form(gramian)
  lengths = form.lengths * form.longest
  np.testing.assert_allclose(
    lengths[:, None] * form.cosines * lengths[None, :],
    gramian,
    rtol=1e-14 if x64 else 1e-6,
  )
  np.testing.assert_array_equal(np.diagonal(form.cosines), 1)
  np.testing.assert_allclose(form.lengths.max(), 1, rtol=1e-6)
  assert not form.is_zero.any()


def test_cosine_form_of_zero_rows_is_orthogonal_to_all():
  rows = jacobians.SAMPLES['two_zero_rows']
  form = solvers.cosine_form(jnp.asarray(rows @ rows.T, jnp.float32))
  np.testing.assert_array_equal(form.is_zero, [1, 0, 0, 1, 0])
  np.testing.assert_array_equal(form.cosines[0], [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(form.cosines[:, 3], [0, 0, 0, 1, 0])
  np.testing.assert_array_equal(form.lengths[jnp.array([0, 3])], 1)
  nothing = solvers.cosine_form(jnp.zeros([3, 3]))
  np.testing.assert_array_equal(nothing.cosines, np.eye(3))
  assert nothing.longest == 1


@pytest.mark.slow
@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_solvers_of_what_is_not_finite_are_not_finite(value):
  gramian = jnp.array([[2.0, 0.3, value], [0.3, 1.0, 0.1], [value, 0.1, 3.0]])
  ones = jnp.ones(3)
  for weights in (
    min_norm(gramian),
    dual_cone(gramian, ones),
    max_min_in_ball(gramian, ones / 3, 0.5),
    alpha_fair(gramian),
    solvers.least_squares(gramian, ones)[0],
  ):
    assert not np.any(np.isfinite(weights))
