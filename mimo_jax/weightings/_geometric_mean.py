"""Geometric mean of the losses."""

import jax
import jax.numpy as jnp

from mimo_jax import base


def geometric_mean() -> base.Weighting:
  """Geometric mean of the losses (geometric loss strategy, GLS).

  The gradient of the geometric mean, in which the units of the losses do not
  matter:

      S = (Π L_i)^(1/K),   w_i = ∂S/∂L_i = S / (K L_i)

  It is computed from logarithms, so that many or tiny losses neither under- nor
  overflow, as they do in a product.

  Losses should be positive. One that is not, or is too small for its type, has
  weight 0, and the mean is that of the others (still divided by K). By the
  definition, it would have infinite weight, and the others none. If no loss is
  positive, the weights are 1/K. A weight beyond the largest number of its type
  is that number.

  Properties: permutation_equivariant, linear_under_scaling, loss_scale_free,
    unit_free.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.geometric_mean()
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.2, 0.8]))
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [1.0, 0.25]

  References:
    S. Chennupati, G. Sistu, S. Yogamani and S. A. Rawashdeh, `MultiNet++:
    Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
    Learning <https://arxiv.org/abs/1904.08492>`_, CVPR workshops 2019.
  """

  def weigh(observation: base.Observation) -> jax.Array:
    losses = observation.losses
    limits = jnp.finfo(losses.dtype)
    # Triggers on losses that are not positive, but not on NaN.
    spent = (losses < limits.tiny) | ~observation.has_rows
    logs = jnp.log(jnp.where(spent, 1, losses))
    # Without a positive loss, all logarithms are 0, and so is their mean.
    mean = jnp.sum(logs) / jnp.maximum(jnp.sum(~spent, dtype=losses.dtype), 1)
    weights = jnp.minimum(jnp.exp(mean - logs), limits.max) / len(losses)
    return jnp.where(spent & ~jnp.all(spent), 0, weights)

  return base.stateless(weigh, needs='losses')
