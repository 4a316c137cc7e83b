"""Problems of every size and kind, and compiled solvers."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import solvers
from tests import checks
from tests import jacobians

# One odd and one even size are quick; the ends, and many objectives, are slow.
each_size = pytest.mark.parametrize(
  'size', [2, 5, *map(checks.slow, (1, 3, 7, 64))]
)

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
  """Yields Jacobians with K rows, more and fewer params, and any degeneracy."""
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


def assert_projected(rows, lower, weights, tolerance):
  """Checks v ≥ u, G v ≥ 0, (v − u)ᵀ G v = 0, relative to the summed sizes."""
  weights = np.asarray(weights, np.float64)
  lengths = np.linalg.norm(rows, axis=1)
  summed = lengths @ np.abs(weights)
  gains = rows @ (rows.T @ weights)
  assert np.all(weights >= lower)
  assert np.all(gains >= -tolerance * lengths * summed)
  # Zero rows could have any weight; they keep theirs.
  np.testing.assert_array_equal(weights[lengths == 0], lower[lengths == 0])
  assert abs((weights - lower) @ gains) <= tolerance * summed**2


def assert_fair(rows, weights, alpha, dtype):
  """Checks aᵢ (G a)ᵢ^α = 1 within the rounding of C; or that there is none."""
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
  # The rounding error of a gain is relative to the sizes of its terms.
  relative = eps * lengths[used] * (lengths @ weights) / np.abs(gains)
  # Newton's steps combine all gains, each divided by the root of aᵢ(Ga)ᵢ.
  push = weights[used] * np.abs(gains)
  spread = np.sqrt(push.max() / push)
  residual = np.abs(weights[used] * np.abs(gains) ** alpha - 1)
  allowed = 1e3 * (1 + alpha) * (relative * spread + eps)
  assert np.all(residual <= np.maximum(allowed, 1e-13)), (residual, allowed)
