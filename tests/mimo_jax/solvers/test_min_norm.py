"""The shortest vector of a hull, by its optimality conditions."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import solvers
from tests import jacobians
from tests import properties
from tests.mimo_jax.solvers import of_sizes as of


@of.each_size
def test_min_norm_is_optimal_and_equals_the_vector_of_scipy(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows in of.of_size(size):
    weights = of.min_norm((rows @ rows.T).astype(dtype))
    assert weights.dtype == dtype
    properties.assert_shortest(rows, weights, of.rounding(dtype, rows))
    # Cancellation in the sum limits how many digits can be correct.
    weights = np.asarray(weights, np.float64)
    np.testing.assert_allclose(
      rows.T @ weights,
      jacobians.shortest(rows),
      rtol=0,
      atol=200 * jnp.finfo(dtype).eps * np.linalg.norm(rows, axis=1) @ weights,
    )


def test_the_nearest_of_points_nearly_on_a_line_is_found(x64):
  """In a Gramian, two of the three span all; the right two are found."""
  dtype = np.float64 if x64 else np.float32
  rows = np.array([[1.084, -0.937], [0.179, 1.083], [2.022, -3.032]])
  weights = of.min_norm((rows @ rows.T).astype(dtype))
  properties.assert_shortest(rows, weights, 4 * of.rounding(dtype, rows))


@pytest.mark.slow
@pytest.mark.parametrize('size', [5, 12])
def test_rows_may_span_few_dimensions_up_to_noise(size):
  """Some rows are multiples of others, and lengths are far apart."""
  random = np.random.RandomState(1)
  sets = []
  for i in range(1200):
    whole = i % 2 == 0

    def draw(*shape, whole=whole):
      return (
        random.randint(-3, 4, shape) if whole else random.normal(size=shape)
      )

    rank = random.randint(1, 4)
    rows = draw(size, rank) @ draw(rank, rank + random.randint(3)) * 1.0
    rows += 10.0 ** -random.randint(2, 6) * random.normal(size=rows.shape)
    if i % 5 == 0:
      rows *= 10.0 ** random.uniform(-3, 3, size=(size, 1))
    sets.append(rows)
  gramians = np.float32([rows @ rows.T for rows in sets])
  lower = np.linspace(1, 0, size, dtype=np.float32)
  every = jax.jit(
    lambda gramians: (
      jax.vmap(solvers.min_norm)(gramians),
      jax.vmap(solvers.dual_cone, (0, None))(gramians, lower),
    )
  )
  for rows, shortest, projected in zip(sets, *every(gramians), strict=True):
    tolerance = of.rounding(np.float32, rows)
    properties.assert_shortest(rows, shortest, 64 * tolerance)
    of.assert_projected(rows, lower, projected, 32 * tolerance)


def test_an_integer_gramian_has_fractional_weights():
  whole = jnp.array([[1, 0], [0, 3]])
  np.testing.assert_allclose(of.min_norm(whole), [0.75, 0.25], rtol=1e-6)


# Parameters: scale of the rows, radius of the ball, alpha.
SETTINGS = {
  'exponent': st.integers(-12, 12),
  'radius': st.floats(0, 2),
  'alpha': st.floats(1, 3),
}


def check_solvers(dtype, rows, radius, alpha, of_shortest=1):
  """Checks that all solvers are optimal up to rounding."""
  gramian = (rows @ rows.T).astype(dtype)
  # Squares that underflow would count as zero.
  squares = np.diagonal(rows @ rows.T)
  hypothesis.assume(squares[squares > 0].min(initial=1) > np.finfo(dtype).tiny)
  lower = np.linspace(1, 0, len(rows)).astype(dtype)
  center = np.full(len(rows), 1 / len(rows), dtype)
  with jax.enable_x64(dtype == np.float64):
    shortest = of.min_norm(gramian)
    projected = of.dual_cone(gramian, lower)
    best = np.asarray(of.max_min_in_ball(gramian, center, radius), float)
    fair = of.alpha_fair(gramian, alpha)
  tolerance = of.rounding(dtype, rows)
  properties.assert_shortest(rows, shortest, of_shortest * tolerance)
  of.assert_projected(rows, lower, projected, 32 * tolerance)
  properties.assert_best_in_ball(rows, best, radius, 16 * tolerance)
  assert np.all(np.isfinite(fair))
  of.assert_fair(rows, fair, float(dtype(alpha)), dtype)


@pytest.mark.slow
@of.few
@hypothesis.given(rows=jacobians.hulls(noises=(0.0, 1.0)), **SETTINGS)
@of.each_dtype
def test_solvers_are_optimal_on_any_gramian(
  dtype, rows, exponent, radius, alpha
):
  check_solvers(dtype, rows * 10.0**exponent, radius, alpha)


@pytest.mark.slow
@of.few
@hypothesis.given(rows=jacobians.hulls(noises=(1e-6, 1e-2)), **SETTINGS)
@of.each_dtype
def test_solvers_are_optimal_if_rows_are_nearly_dependent(
  dtype, rows, exponent, radius, alpha
):
  """If two rows are opposed up to 1e-6, their weights cancel as much."""
  of_shortest = 64 if dtype == np.float32 else 1e5
  check_solvers(dtype, rows * 10.0**exponent, radius, alpha, of_shortest)


@pytest.mark.slow
@of.few
@hypothesis.given(rows=jacobians.hulls(), exponent=st.integers(-12, 12))
def test_min_norm_does_not_depend_on_the_scale(rows, exponent):
  # Powers of two, so that even rounding is the same.
  gramian = (rows @ rows.T).astype(np.float32)
  scaled = gramian * np.float32(4.0 ** (exponent * 3))
  np.testing.assert_array_equal(of.min_norm(scaled), of.min_norm(gramian))


@pytest.mark.slow
@of.few
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
    weights = np.asarray(of.min_norm(gramian))
  # Near span = 0 both ends coincide, and any share is correct.
  tol = 1e-14 * (first**2 + second**2) / span if span > 0 else 1
  np.testing.assert_allclose(weights[0], share, rtol=0, atol=tol + 1e-14)
  np.testing.assert_allclose(weights.sum(), 1, rtol=1e-14)


def test_min_norm_gives_zero_rows_all_the_weight(x64):
  rows = jacobians.SAMPLES['two_zero_rows']
  weights = of.min_norm(jax.device_put(rows @ rows.T))
  np.testing.assert_array_equal(weights, [0.5, 0, 0, 0.5, 0])
  assert weights.dtype == (jnp.float64 if x64 else jnp.float32)
  np.testing.assert_array_equal(of.min_norm(jnp.zeros([4, 4])), [0.25] * 4)


@pytest.mark.slow
def test_min_norm_under_vmap_and_jit_is_the_eager_loop():
  """Here in float64; the contract of `mgda` covers float32."""
  with jax.enable_x64(True):
    gramians = np.stack([rows @ rows.T for rows in of.of_size(3)])
    together = jax.jit(jax.vmap(solvers.min_norm))(gramians)
    # Without jit every call compiles the loop again: one is enough.
    solve = solvers.min_norm
    # Degenerate problems have equivalent weights: compare directions.
    for rows, gramian, one in zip(
      of.of_size(3), gramians, together, strict=True
    ):
      expected = properties.weighed(rows, solve(jax.device_put(gramian)))
      properties.assert_same(rows.T @ one, expected, rows, 1e-12)
      solve = of.min_norm
