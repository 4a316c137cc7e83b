"""Weights fixed by the user."""

import jax

from mimo_jax import _arguments
from mimo_jax import base


def constant(
  weights: _arguments.Scalar | _arguments.Vector = 1.0,
) -> base.Weighting:
  """Weights fixed by the user.

  Properties: linear_under_scaling, loss_scale_free.

  Args:
    weights: one number for all objectives, or K of them in the order of the
      argument `objectives` of `balance`, that of the primary objective first.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.constant([1.0, 0.3])
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.0, 0.3]
  """
  _arguments.check(
    'constant', _arguments.each(_arguments.finite()), weights=weights
  )

  def weigh(observation: base.Observation) -> jax.Array:
    return _arguments.for_each_objective(
      'constant', 'weights', weights, observation.losses
    )

  return base.stateless(weigh, needs='losses')
