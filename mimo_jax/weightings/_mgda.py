"""Multiple-gradient descent."""

from typing import Literal

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers

_NORMALIZATIONS = ('none', 'l2', 'loss', 'loss+')


def mgda(
  zero_rows: _arguments.ZeroRows = 'drop',
  normalization: Literal['none', 'l2', 'loss', 'loss+'] = 'none',
) -> base.Weighting:
  """Multiple-gradient descent algorithm (MGDA).

  The shortest vector in the convex hull of the gradients, which decreases
  every objective unless none can be improved without loss to another:

      a = argmin  aᵀ G a   over  a ≥ 0, Σ a = 1

  G = `observation.gramian`. The problem is solved exactly. The authors' code
  and most libraries run Frank-Wolfe or projected steps for a fixed number of
  rounds instead, and stop several percent short on three or more objectives.

  A zero gradient is the shortest vector itself. So by the definition, one
  finished or masked objective stops all others. By default this rule leaves
  zero gradients out.

  Properties: simplex, min_norm, non_conflicting, permutation_equivariant,
    scale_invariant.

  Args:
    zero_rows: 'drop' ignores zero gradients; 'keep' returns zero if there is
      one, as the definition says.
    normalization: what the gradients are divided by before they enter the
      problem, as in the code of Sener and Koltun: 'none'; 'l2', their lengths;
      'loss', their losses; 'loss+', both. The weights are for the gradients as
      they were. The guarantees hold for 'none'.

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
  _arguments.check_choice('mgda', _arguments.ZERO_ROWS, zero_rows=zero_rows)
  _arguments.check_choice('mgda', _NORMALIZATIONS, normalization=normalization)

  def weigh(observation: base.Observation) -> jax.Array:
    gramian, losses = observation.gramian, observation.losses
    if normalization in ('l2', 'loss+'):
      form = solvers.cosine_form(gramian)
      gramian = jnp.where(form.is_zero, 0, form.cosines)
    if normalization in ('loss', 'loss+'):
      # A loss of zero cannot be a divisor: its gradient is not scaled.
      scale = _numerics.nonzero(losses).astype(gramian.dtype)
      gramian = gramian / scale[:, None] / scale[None, :]
    return solvers.min_norm(gramian, drop_zero_rows=zero_rows == 'drop')

  return base.stateless(weigh, needs='gramian')
