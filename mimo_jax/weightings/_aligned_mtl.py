"""Independent component alignment."""

from typing import Literal

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base

_SCALES = ('min', 'median', 'rmse')


def aligned_mtl(
  preference: _arguments.Vector | None = None,
  scale: Literal['min', 'median', 'rmse'] = 'min',
) -> base.Weighting:
  """Independent component alignment (Aligned-MTL).

  The gradients are replaced by the nearest orthogonal ones of equal length,
  which cannot conflict, and those are averaged:

      G = V diag(λ) Vᵀ,    B = √σ V diag(λ^(−1/2)) Vᵀ,    a = B p

  G = `observation.gramian`, p = `preference`. Eigenvalues that are zero up to
  rounding are left out. σ is the smallest of the others, their (lower) median
  or their mean; these choices differ by a factor only, and with 'min' no
  direction is amplified. Weights may be negative, and the result may conflict
  with the original gradients. A zero gradient is ignored.

  This rule depends on the lengths of the gradients, and jumps where the rank
  changes: an eigenvalue counts as zero below K eps times the largest. In
  float32 this happens to gradients 1e3 times shorter than the longest, with x64
  to those 1e7 times shorter. LibMTL's weights are K times these (a preference
  of one each).

  Properties: permutation_equivariant (x64), scale_invariant (x64).

  Args:
    preference: p ≥ 0, K numbers, that of the primary objective first; by
      default 1/K each.
    scale: which eigenvalue sets the length: 'min', 'median' or 'rmse'.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.aligned_mtl()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.559, 0.408]

  References:
    D. Senushkin, N. Patakin, A. Kuznetsov and A. Konushin, `Independent
    Component Alignment for Multi-Task Learning
    <https://arxiv.org/abs/2305.19000>`_, CVPR 2023, Eq. 9 and 10.
  """
  _arguments.check_preference('aligned_mtl', preference)
  _arguments.check_choice('aligned_mtl', _SCALES, scale=scale)

  def weigh(observation: base.Observation) -> jax.Array:
    gramian = observation.gramian
    p = _arguments.preference_of('aligned_mtl', preference, gramian[0])
    size = observation.num_objectives
    largest = jnp.max(jnp.diagonal(gramian))
    # If all gradients are zero, all eigenvalues are left out.
    values, vectors = jnp.linalg.eigh(gramian / _numerics.nonzero(largest))
    # They are in ascending order, so the last ones are in use.
    used = values > size * jnp.finfo(values.dtype).eps * values[-1]
    rank = jnp.sum(used)
    first = size - rank
    if scale == 'rmse':
      square = jnp.sum(jnp.where(used, values, 0)) / jnp.maximum(rank, 1)
    else:
      index = first if scale == 'min' else first + (rank - 1) // 2
      square = values[jnp.clip(index, 0, size - 1)]
    factors = _numerics.divide(square, values, where=used)
    return vectors @ (_numerics.root(factors) * (vectors.T @ p))

  return base.stateless(weigh, needs='gramian')
