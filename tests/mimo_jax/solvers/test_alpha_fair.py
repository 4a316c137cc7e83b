"""The alpha-fair equations, by their residual."""

import jax
import numpy as np

from tests import jacobians
from tests.mimo_jax.solvers import of_sizes as of


@of.each_size
def test_fair_weights_solve_their_equation(size, x64):
  dtype = np.float64 if x64 else np.float32
  for rows in of.of_size(size):
    for alpha in (0.5, 1.0, 2.0):
      if alpha < 1 and jacobians.is_stationary(rows):
        continue  # d has a limit that is not zero while weights diverge
      weights = of.alpha_fair((rows @ rows.T).astype(dtype), alpha)
      assert weights.dtype == dtype
      of.assert_fair(rows, weights, alpha, dtype)


def test_fair_weights_of_orthogonal_rows_are_the_closed_form(x64):
  squares = np.array([3.0, 0.02, 7.0, 1e4])
  for alpha in (0.5, 1.0, 4.0):
    np.testing.assert_allclose(
      of.alpha_fair(jax.device_put(np.diag(squares)), alpha),
      squares ** (-alpha / (1 + alpha)),
      rtol=1e-13 if x64 else 1e-5,
    )
