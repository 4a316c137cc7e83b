"""Sum of all objectives."""

import jax.numpy as jnp

from mimo_jax import base


def sum() -> base.Weighting:
  """Sum of all objectives (equal weighting, EW).

  The weights a_i = 1: the gradient of the sum of the losses, K times that of
  `mean`.

  Properties: permutation_equivariant, linear_under_scaling, loss_scale_free.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.sum()
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.0, 1.0]
  """
  return base.stateless(
    lambda observation: jnp.ones_like(observation.losses), needs='losses'
  )
