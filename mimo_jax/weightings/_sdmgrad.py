"""Stochastic direction-oriented multi-objective gradient descent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax.weightings import _shares

# Unrolled steps on an accelerator; so few that they compile quickly.
_UNROLLED = 20


class SDMGradState(NamedTuple):
  """State of `sdmgrad`."""

  shares: jax.Array  # [K], w, without the preference


def sdmgrad(
  step_size: _arguments.Scalar = 0.5,
  momentum: _arguments.Scalar = 0.5,
  num_steps: int = 20,
  regularization: _arguments.Scalar = 0.3,
  preference: _arguments.Vector | None = None,
) -> base.Weighting:
  """Stochastic direction-oriented multi-objective gradient descent (SDMGrad).

  MGDA, pulled towards a preferred direction, from two independent batches:

      w ≈ argmin  ½ wᵀA w + λ w̃ᵀA w   over  w ≥ 0, Σ w = 1
      a = (w + λ w̃) / (1 + λ)

  A = J₁ J₂ᵀ / s² with s = meanᵢ √max((J₁ J₂ᵀ)ᵢᵢ, 0), a scale. J₁ J₂ᵀ is
  `observation.cross_gramian`, made of the extra argument `independent_updates`
  of `balance`; λ = `regularization`, w̃ = `preference`. The rule takes
  `num_steps` steps of projected gradient descent of size η from the previous w,
  with momentum m that begins anew each time:

      v ← m v + A (w + λ w̃),   w ← proj(w − η v)

  The weights are for the gradient of any batch: one of the two, or better a
  third, which costs one backward pass beside the 2K of the two Jacobians. If no
  diagonal entry of J₁ J₂ᵀ is positive, the batches agree on no objective, and w
  stays.

  Other libraries use η = 5 or 10, with which w jumps from vertex to vertex. For
  a symmetric A, the steps converge if no eigenvalue is above 2 (1 + m) / η.
  With our defaults this is 6, and the mean of the diagonal of A is about 1.

  Properties: simplex, scale_invariant.

  Args:
    step_size: η ≥ 0. Larger: w moves faster, until it does not converge.
    momentum: m from 0 to below 1.
    num_steps: steps of the loop, at least 1. More: closer to the minimiser.
    regularization: λ ≥ 0. Larger: closer to the preference. 0 is MGDA.
    preference: w̃, K numbers at least 0, that of the primary objective first,
      divided by their sum. None is 1/K.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.sdmgrad()
    >>> first = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> second = jnp.array([[-3.0, 1.0, 0.0], [7.0, 1.0, 2.0]])
    >>> observation = mimo_jax.Observation(
    ...   jnp.ones(2), cross_gramian=first @ second.T
    ... )
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.7, 0.3]

  References:
    P. Xiao, H. Ban and K. Ji, `Direction-oriented Multi-objective Learning:
    Simple and Provable Stochastic Algorithms
    <https://arxiv.org/abs/2305.18409>`_, NeurIPS 2023, Algorithm 1.
  """
  _arguments.check(
    'sdmgrad',
    _arguments.at_least(0),
    step_size=step_size,
    regularization=regularization,
  )
  _arguments.check('sdmgrad', _arguments.from_to_below(0, 1), momentum=momentum)
  _arguments.check('sdmgrad', _arguments.whole(1), num_steps=num_steps)
  _arguments.check_preference('sdmgrad', preference)

  def init(num_objectives: int) -> SDMGradState:
    return SDMGradState(jnp.full(num_objectives, 1 / num_objectives, float))

  def update(
    observation: base.Observation, state: SDMGradState
  ) -> tuple[jax.Array, SDMGradState]:
    size = observation.num_objectives
    cross = observation.cross_gramian
    preferred = _arguments.preference_of(
      'sdmgrad', preference, observation.losses
    ).astype(cross.dtype)
    present = observation.present
    preferred = jnp.where(present, preferred, 0)
    preferred = preferred / _numerics.nonzero(jnp.sum(preferred))
    # Scale by the largest entry first: otherwise squares of 1e-30 would vanish.
    scaled = cross / _numerics.nonzero(jnp.max(jnp.abs(cross)))
    lengths = _numerics.root(jnp.diagonal(scaled))
    square = (jnp.sum(lengths) / jnp.sum(present, dtype=cross.dtype)) ** 2
    # False if the batches have nothing in common but rounding errors.
    agrees = ~(square <= size * jnp.finfo(cross.dtype).eps)
    scaled = _numerics.divide(scaled, square, where=agrees)

    def descend(
      carry: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
      weights, velocity = carry
      pulled = weights + regularization * preferred
      gradient = jnp.sum(scaled * pulled[None, :], axis=1)
      velocity = (momentum * velocity + gradient).astype(cross.dtype)
      moved = _shares.project(weights - step_size * velocity, present)
      return (moved.astype(cross.dtype), velocity), None

    start, left = _shares.of_present(state.shares.astype(cross.dtype), present)
    (weights, _), _ = lax.scan(
      descend,
      (start, jnp.zeros_like(start)),
      length=num_steps,
      unroll=_numerics.unroll(min(num_steps, _UNROLLED)),
    )
    pulled = (weights + regularization * preferred) / (1 + regularization)
    return pulled, SDMGradState(
      _numerics.keep_rows(present, left * weights, state.shares)
    )

  return base.stateful(init, update, needs='cross_gramian')
