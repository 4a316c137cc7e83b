"""Mean of all objectives."""

import jax.numpy as jnp

from mimo_jax import base


def mean() -> base.Weighting:
  """Mean of all objectives.

  The weights a_i = 1/K: the gradient of the mean loss.

  Properties: simplex, permutation_equivariant, linear_under_scaling,
    loss_scale_free.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.mean()
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.5, 0.5]
  """
  return base.stateless(
    lambda observation: jnp.full_like(
      observation.losses, 1 / observation.num_objectives
    ),
    needs='losses',
  )
