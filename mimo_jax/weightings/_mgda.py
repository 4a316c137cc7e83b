"""Multiple-gradient descent."""

import jax

from mimo_jax import base
from mimo_jax import solvers


def mgda() -> base.Weighting:
  """Multiple-gradient descent algorithm (MGDA).

  The shortest vector in the convex hull of the gradients, which decreases
  every objective unless none can be improved without loss to another:

      a = argmin  aᵀ G a   over  a ≥ 0, Σ a = 1

  G = `observation.gramian`. Solved exactly. The authors' code and most
  libraries run Frank-Wolfe or projected steps for a fixed number of rounds
  instead and stop several percent short on three or more objectives.
  Where a gradient is zero, so is the result, as the definition says.

  Properties: simplex, min_norm, non_conflicting, permutation_equivariant,
    scale_invariant.

  Returns:
    A `mimo_jax.Weighting`; stateless.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.mgda()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.6, 0.4]

  References:
    J.-A. Désidéri, `Multiple-gradient descent algorithm (MGDA) for
    multiobjective optimization <https://doi.org/10.1016/j.crma.2012.03.014>`_,
    Comptes Rendus Mathématique 2012.

    O. Sener and V. Koltun, `Multi-Task Learning as Multi-Objective
    Optimization <https://arxiv.org/abs/1810.04650>`_, NeurIPS 2018.
  """

  def weigh(observation: base.Observation) -> jax.Array:
    return solvers.min_norm(observation.gramian)

  return base.stateless(weigh, needs='gramian')
