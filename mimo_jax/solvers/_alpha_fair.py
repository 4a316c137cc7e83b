"""The alpha-fair (for alpha = 1, Nash) bargaining equations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import linalg

from mimo_jax import _numerics
from mimo_jax.solvers import _cosine_form
from mimo_jax.solvers import _products

# Usually six or seven steps suffice. Lengths 1e6 apart with alpha far from 1
# take thirty, and so does detecting that there is no solution.
_MAX_STEPS = 64


class _Newton(NamedTuple):
  weights: jax.Array  # [K], beta
  change: jax.Array  # [], the largest relative Newton step, before shortening
  is_stationary: jax.Array  # [] bool
  steps: jax.Array
  done: jax.Array


@_products.full_precision
def alpha_fair(gramian: jax.Array, alpha: float | jax.Array = 1.0) -> jax.Array:
  """Positive weights with G a = a^(−1/α), entry by entry.

  With d = Jᵀa this says aᵢ = (gᵢᵀd)^(−α): the more an objective gains, the less
  weight it has. The solution is the unique minimiser of the strictly convex
  ½ aᵀG a − Σ ψ(aᵢ), ψ' = a^(−1/α). It is found by Newton's method in relative
  steps, which are shortened while they are large.

  The variable is β = n∘a, with n the lengths of the rows and C their cosines:
  C β = n^(1/α − 1) β^(−1/α). So lengths that differ do no harm, and for α = 1
  they do not enter at all.

  There is no solution if zero is in the convex hull of the rows (the weights
  grow without bound while d goes to zero), nor with a zero row.

  Certificate: aᵢ (G a)ᵢ^α = 1 for every row that is not zero.

  Args:
    gramian: G, [K, K], inner products of the rows of J.
    alpha: α > 0.

  Returns:
    a, [K]: 0 for rows of length zero, which are left out; 0 for all rows if
    there is no solution, as far as the precision of G can tell
    (‖d‖² below K eps (Σ aᵢ‖gᵢ‖)²); NaN if G is not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import solvers
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> solvers.alpha_fair(rows @ rows.T).tolist()
    [0.591, 0.407]

  References:
    The equations: A. Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022; H. Ban and K. Ji, `Fair
    Resource Allocation in Multi-Task Learning
    <https://arxiv.org/abs/2402.15638>`_, ICML 2024. The solver is ours.
  """
  form = _cosine_form.cosine_form(gramian)
  cosines = form.cosines
  dtype = cosines.dtype
  size = cosines.shape[0]
  eps = jnp.finfo(dtype).eps
  alpha = jnp.asarray(alpha, dtype)
  power = 1 / alpha
  # m = n^(1/α − 1), relative to the largest.
  log_push = (power - 1) * jnp.log(form.lengths)
  largest = jnp.max(log_push)
  log_push = log_push - largest
  identity = jnp.eye(size, dtype=dtype)

  def step(state: _Newton) -> _Newton:
    beta = state.weights
    pull = beta * (cosines @ beta)  # βᵢ (C β)ᵢ
    push = jnp.exp(log_push) * beta ** (1 - power)  # βᵢ mᵢ βᵢ^(−1/α)
    # The step is βᵢ (1 + δᵢ); the system is scaled to a diagonal near one.
    root = jnp.sqrt(push)
    scaled = beta / root
    system = scaled[:, None] * cosines * scaled[None, :]
    # Some rounding errors are added, so that the Cholesky factor of dependent
    # rows exists, too.
    diagonal = jnp.square(scaled) * (1 + 2 * size * eps) + power
    system = jnp.where(identity > 0, diagonal[:, None], system)
    factor = linalg.cho_factor(system, lower=True)
    delta = linalg.cho_solve(factor, (push - pull) / root) / root
    change = jnp.max(jnp.abs(delta))
    solvable = jnp.isfinite(change)
    length = 1 / (1 + jnp.where(change > 0.25, change, 0))
    new = jnp.where(solvable, beta * (1 + length * delta), beta)
    # At a solution βᵀC β = Σ push. If the sum is below the rounding error of
    # the left side, the weights are growing to infinity.
    total = jnp.sum(jnp.where(form.is_zero, 0, beta))
    left = jnp.sum(jnp.where(form.is_zero, 0, push))
    is_stationary = left <= size * eps * total**2
    # Converged, or as close as rounding permits.
    converged = (change <= 4 * eps) | (
      (change <= 1e-2) & (change >= state.change)
    )
    done = converged | is_stationary | ~solvable
    return _Newton(new, change, is_stationary, state.steps + 1, done)

  one = jnp.exp(log_push / (1 + power))  # the solution for orthogonal rows
  # Made from the data, so that they vary between devices if the data do.
  start = _Newton(
    weights=one,
    change=one[0] * 0 + jnp.inf,
    is_stationary=one[0] < 0,
    steps=jnp.zeros((), jnp.int32),
    done=one[0] < 0,
  )
  end = lax.while_loop(
    lambda state: ~state.done & (state.steps < _MAX_STEPS), step, start
  )
  # Undo the scaling by the longest row and by the largest m.
  log_scale = (largest - 2 * jnp.log(form.longest)) / (1 + power)
  weights = end.weights / form.lengths * jnp.exp(log_scale)
  weights = jnp.where(form.is_zero | end.is_stationary, 0, weights)
  return _numerics.nan_unless(jnp.all(jnp.isfinite(gramian)), weights)
