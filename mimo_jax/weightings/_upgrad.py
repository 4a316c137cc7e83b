"""Unconflicting projection of gradients."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers


def upgrad(preference: _arguments.Vector | None = None) -> base.Weighting:
  """Unconflicting projection of gradients (UPGrad).

  Each gradient is projected on the cone of directions that conflict with none,
  and the projections are summed:

      a = Σᵢ argmin  vᵀ G v   over  v ≥ pᵢ eᵢ

  G = `observation.gramian`, p = `preference`. So an objective matters in
  proportion to its gradient, and no objective gets worse. Without conflicts
  this is the mean (weighted by the preference). A zero gradient changes
  nothing.

  The problem is solved exactly, on cosines. The authors' code adds 1e-4 of its
  trace to G, which costs 18 % of the direction on gradients of lengths 1e-3 to
  1e3, and falls back to the mean for Jacobians shorter than 1e-2.

  Properties: non_conflicting, permutation_equivariant, scale_invariant,
    linear_under_scaling, strongly_stationary.

  Args:
    preference: p ≥ 0, K numbers, that of the primary objective first; by
      default 1/K each.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.upgrad()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.111, 0.789]

  References:
    P. Quinton and V. Rey, `Jacobian Descent For Multi-Objective Optimization
    <https://arxiv.org/abs/2406.16232>`_, 2024.
  """
  _arguments.check_preference('upgrad', preference)

  def weigh(observation: base.Observation) -> jax.Array:
    p = _arguments.preference_of('upgrad', preference, observation.losses)
    each = jax.vmap(solvers.dual_cone, in_axes=(None, 0))(
      observation.gramian, jnp.diag(p)
    )
    return jnp.sum(each, axis=0)

  return base.stateless(weigh, needs='gramian')
