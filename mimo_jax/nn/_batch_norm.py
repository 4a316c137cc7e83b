"""Batch normalisation by the rows that have a modality."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from mimo_jax import _numerics


class BatchNorm(nn.BatchNorm):
  """Flax's batch normalisation, with a mask that holds over devices.

  It has the attributes and variables of `flax.linen.BatchNorm`, and without a
  mask it is the same. With a mask, Flax's version averages the means of the
  devices of `axis_name`, however many values each of them has, and is NaN if a
  batch has none. Here

      μ = Σ_i m_i x_i / Σ_i m_i,    σ² = Σ_i m_i (x_i - μ)² / Σ_i m_i

  over the values x_i of all devices, with their masks m_i. A batch without any
  value is normalised by the running statistics, and does not change them.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> norm = nn.BatchNorm(use_running_average=False)
    >>> inputs = jnp.array([[1.0], [3.0], [0.0]])  # the last row lacks it
    >>> variables = norm.init(jax.random.key(0), inputs)
    >>> normalised, _ = norm.apply(
    ...   variables,
    ...   inputs,
    ...   mask=jnp.array([[True], [True], [False]]),
    ...   mutable=['batch_stats'],
    ... )
    >>> normalised[:, 0].round(3).tolist()
    [-1.0, 1.0, -2.0]
  """

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
  ) -> Any:
    """Normalises values, the masked ones, too.

    Args:
      x: the values, whose features are along `axis`.
      use_running_average: whether to normalise by the running statistics; if
        the attribute is None.
      mask: booleans that broadcast to `x`: which values the statistics are of.
        `init`, which stores none, ignores it.

    Returns:
      Values of the shape of `x`.
    """
    is_running = nn.merge_param(
      'use_running_average', self.use_running_average, use_running_average
    )
    if mask is None or is_running or self.is_initializing():
      return super().__call__(x, use_running_average)
    new, has_values = self._statistics(x, mask)
    used = {}
    for name, initial in (('mean', jnp.zeros), ('var', jnp.ones)):
      shape = new[name].shape
      kept = self.variable('batch_stats', name, initial, shape, jnp.float32)
      used[name] = jnp.where(has_values, new[name], kept.value)
      moved = self.momentum * kept.value + (1 - self.momentum) * new[name]
      kept.value = jnp.where(has_values, moved, kept.value)
    evaluating = self.clone(parent=None, use_running_average=True)
    return evaluating.apply({**self.variables, 'batch_stats': used}, x)

  def _statistics(
    self, x: jax.Array, mask: jax.Array
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    """Mean and variance of each feature, and whether it has any value."""
    features = {axis % x.ndim for axis in np.ravel(self.axis).tolist()}
    axes = tuple(axis for axis in range(x.ndim) if axis not in features)
    x = _numerics.at_least_float32(x)
    counts = jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)

    def average(values: jax.Array) -> jax.Array:
      """The average over all rows, in which masked values are 0."""
      values = jnp.where(counts, values, 0)
      mean = jnp.mean(values, axes, keepdims=True)
      if self.axis_name is None:
        return mean
      groups = self.axis_index_groups
      return lax.pmean(mean, self.axis_name, axis_index_groups=groups)

    share = average(jnp.ones_like(x))
    mean = _numerics.divide(average(x), share)
    if self.use_fast_variance:
      square = _numerics.divide(average(_square(x)), share)
      var = jnp.maximum(0, square - _square(mean))
    else:
      var = _numerics.divide(average(_square(x - mean)), share)
    found = {'mean': jnp.squeeze(mean, axes), 'var': jnp.squeeze(var, axes)}
    return found, jnp.squeeze(share, axes) > 0


def _square(values: jax.Array) -> jax.Array:
  return jnp.real(values * jnp.conj(values))
