"""Joint training: the primary objective alone."""

import jax.numpy as jnp

from mimo_jax import base


def fused_only() -> base.Weighting:
  """Joint training, the usual way to train a multi-modal network.

  The weight is 1 for the primary (fused) objective and 0 for every other.
  Uni-modal heads then never learn. To read a jointly trained model's uni-modal
  accuracy, train the heads on stopped gradients instead
  (`mimo_jax.nn.LateFusion` with `detach_heads=True`, and `sum`). The encoders
  get the same gradient.

  Properties: simplex, linear_under_scaling, loss_scale_free.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.fused_only()
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.0, 0.0]
  """
  return base.stateless(
    lambda observation: jnp.zeros_like(observation.losses).at[0].set(1),
    needs='losses',
    has_primary=True,
  )
