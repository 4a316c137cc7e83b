"""Projection of the mean gradient on the dual cone."""

import jax

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers


def dualproj(preference: _arguments.Vector | None = None) -> base.Weighting:
  """Projection of the mean gradient on the dual cone (DualProj).

  The nearest direction to the mean gradient that conflicts with no objective:

      a = argmin  vᵀ G v   over  v ≥ p

  G = `observation.gramian`, p = `preference`. If the mean gradient conflicts
  with no objective, it is the direction. The direction is never longer than the
  mean, and long gradients dominate it as they do the mean (unlike `upgrad`). A
  zero gradient changes nothing.

  The problem is solved exactly, on cosines; other code adds 1e-4 of its trace
  to G. GEM, the source, projects the newest task's gradient against the others:
  that is a preference of (1, 0, ..., 0).

  Properties: non_conflicting, permutation_equivariant, scale_invariant,
    strongly_stationary.

  Args:
    preference: p ≥ 0, K numbers, that of the primary objective first; by
      default 1/K each.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.dualproj()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.611, 0.5]

  References:
    D. Lopez-Paz and M. Ranzato, `Gradient Episodic Memory for Continual
    Learning <https://arxiv.org/abs/1706.08840>`_, NeurIPS 2017, Eq. 11.
  """
  _arguments.check_preference('dualproj', preference)

  def weigh(observation: base.Observation) -> jax.Array:
    p = _arguments.preference_of('dualproj', preference, observation.losses)
    return solvers.dual_cone(observation.gramian, p)

  return base.stateless(weigh, needs='gramian')
