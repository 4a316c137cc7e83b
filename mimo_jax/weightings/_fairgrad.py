"""Fair resource allocation."""

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers


def fairgrad(alpha: _arguments.Scalar = 1.0) -> base.Weighting:
  """Fair resource allocation in multi-task learning (FairGrad).

  The direction with the best alpha-fair utility of the gains of the objectives:
  a > 0 with

      (G a)ᵢ = aᵢ^(−1/α)

  G = `observation.gramian`, α = `alpha`. α = 1 is Nash-MTL without its
  clipping; α → 0 turns to the mean, α → ∞ to MGDA. d scales as the
  (1 − α)/(1 + α)-th power of the gradients.

  The problem is solved exactly, by Newton's method on cosines; other code runs
  a general least-squares solver, which is 60 % off on gradients of length 1e-3.
  The weights are zero at (numerically) stationary points, where there is no
  solution. Zero gradients are left out.

  Properties: non_conflicting, permutation_equivariant, strongly_stationary.

  Args:
    alpha: α > 0. Larger: the objective that gains least matters more.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.fairgrad(alpha=2.0)
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.471, 0.319]

  References:
    H. Ban and K. Ji, `Fair Resource Allocation in Multi-Task Learning
    <https://arxiv.org/abs/2402.15638>`_, ICML 2024, Eq. 7.
  """
  _arguments.check('fairgrad', _arguments.finite_above(0), alpha=alpha)
  return base.stateless(
    lambda observation: solvers.alpha_fair(observation.gramian, alpha),
    needs='gramian',
  )
