"""Weights fixed by the user."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mimo_jax import base


def constant(
  weights: float | Sequence[float] | jax.Array = 1.0,
) -> base.Weighting:
  """Weights fixed by the user.

  Properties: linear_under_scaling, loss_scale_free.

  Args:
    weights: one number for every objective, or K of them, that of the primary
      objective first and the rest in the order of `balance`'s `objectives`.

  Returns:
    A `mimo_jax.Weighting`; stateless.

  Raises:
    ValueError: if `weights` is not a number or a vector; when tracing, if it
      does not have K entries.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.constant([1.0, 0.3])
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.0, 0.3]
  """
  shape = np.shape(weights)
  if len(shape) > 1:
    raise ValueError(
      f'weights has shape {shape}; expected a number or a vector [K].'
    )

  def weigh(observation: base.Observation) -> jax.Array:
    size = observation.num_objectives
    if shape not in ((), (size,)):
      raise ValueError(
        f'constant was given {shape[0]} weights for {size} objectives.'
      )
    values = jnp.asarray(weights, observation.losses.dtype)
    return jnp.broadcast_to(values, (size,))

  return base.stateless(weigh, needs='losses')
