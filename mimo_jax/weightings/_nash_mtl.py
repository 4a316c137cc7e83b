"""Multi-task learning as a bargaining game."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers


def nash_mtl(max_norm: _arguments.Scalar | None = 1.0) -> base.Weighting:
  """Multi-task learning as a bargaining game (Nash-MTL).

  The Nash bargaining solution: a > 0 with

      (G a)ᵢ = 1 / aᵢ

  G = `observation.gramian`. Every objective gains in proportion to the inverse
  of its weight. Neither the scale of a loss nor the length of a gradient
  matters. The solution has length √K whatever the gradients' lengths, and is
  then shortened to `max_norm`. So the default always gives unit vectors: choose
  the learning rate for that.

  The problem is solved exactly, by Newton's method on cosines. The authors'
  code, LibMTL and TorchJD run up to 20 rounds of a convex-concave procedure. It
  fails away from gradients of unit length (400 % off on lengths 1e-3 to 1e3),
  and then returns the direction of the plain sum, as it does at stationary
  points. Here the weights are zero at (numerically) stationary points, where
  there is no solution. Zero gradients are left out.

  Properties: non_conflicting, bargaining, permutation_equivariant,
    row_scale_invariant, strongly_stationary.

  Args:
    max_norm: the length to which d is shortened; None leaves √K.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.nash_mtl()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.418, 0.288]

  References:
    A. Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022, Claim 3.1.
  """
  if max_norm is not None:
    _arguments.check('nash_mtl', _arguments.above(0), max_norm=max_norm)

  def weigh(observation: base.Observation) -> jax.Array:
    weights = solvers.alpha_fair(observation.gramian)
    if max_norm is not None:
      # ‖d‖² = Σ aᵢ (G a)ᵢ equals the number of rows that are not left out.
      norm = jnp.sqrt(jnp.sum(weights > 0, dtype=weights.dtype))
      weights = weights * jnp.minimum(1, max_norm / jnp.maximum(norm, 1))
    return weights

  return base.stateless(weigh, needs='gramian')
