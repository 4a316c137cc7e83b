"""Multi-task learning with excess risks."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax.weightings import _trackers


class ExcessMTLState(NamedTuple):
  """State of `excess_mtl`."""

  squares: base.PyTree  # leaves [K, ...], S, sums of squared gradients
  logits: jax.Array  # [K], log w
  baseline: jax.Array  # [K], e(0), the mean of e in the warm-up
  step: jax.Array  # [K] int32, steps taken in which it was present


def excess_mtl(
  step_size: _arguments.Scalar = 0.01, num_warmup_steps: int = 1
) -> base.Weighting:
  """Multi-task learning with excess risks (ExcessMTL).

  More weight for objectives that are far from the best that they can reach,
  whatever noise is left there. A diagonal estimate e gives that distance:

      Sᵢ ← Sᵢ + gᵢ²,   eᵢ = Σ_p g_ip² / √S_ip
      wᵢ ← wᵢ exp(η eᵢ / eᵢ(0)) / Z,   Σ w = 1,   w₀ = 1/K

  η = `step_size`. The first `num_warmup_steps` steps leave w as it is, and e(0)
  is the mean of e over them. With one such step, as in the authors' code, it is
  the first e. If e(0) = 0, the first e that is not 0 replaces it.

  The weights sum to 1, those of the authors to K: multiply their learning rate
  of the model by K, and keep their η. Another library learns from the very
  first e, not divided by anything. The weights are kept as logarithms and do
  not overflow.

  Properties: simplex, permutation_equivariant, scale_invariant.

  Args:
    step_size: η ≥ 0. Larger: the weights move faster.
    num_warmup_steps: number of steps with equal weights, over which e(0) is the
      mean; at least 1.

  Returns:
    A `mimo_jax.Weighting`; state carries the sums of squares, K times the size
    of params, the logarithms of the weights, e(0) and the number of steps.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.excess_mtl(step_size=1.0)
    >>> state = rule.init(2, params=jnp.zeros(2))
    >>> for rows in ([[4.0, 0.0], [1.0, 0.0]], [[3.0, 0.0], [1.0, 0.0]]):
    ...   observation = mimo_jax.Observation(
    ...     jnp.ones(2), jacobian=jnp.array(rows)
    ...   )
    ...   weights, state = rule.update(observation, state)
    ...   print(weights.tolist())
    [0.5, 0.5]
    [0.436, 0.564]

  References:
    Y. He et al., `Robust Multi-Task Learning with Excess Risks
    <https://arxiv.org/abs/2402.02009>`_, ICML 2024, Algorithm 1.
  """
  _arguments.check('excess_mtl', _arguments.at_least(0), step_size=step_size)
  _arguments.check(
    'excess_mtl', _arguments.whole(1), num_warmup_steps=num_warmup_steps
  )

  def init(num_objectives: int, params: base.PyTree) -> ExcessMTLState:
    zeros = jnp.zeros(num_objectives)
    return ExcessMTLState(
      squares=_trackers.zeros('excess_mtl', num_objectives, params),
      logits=zeros - math.log(num_objectives),
      baseline=zeros,
      step=jnp.zeros(num_objectives, jnp.int32),
    )

  def update(
    observation: base.Observation, state: ExcessMTLState
  ) -> tuple[jax.Array, ExcessMTLState]:
    squares = jax.tree.map(
      lambda total, leaf: total + leaf.astype(total.dtype) ** 2,
      state.squares,
      observation.jacobian,
    )

    def over_fourth_root(leaf: jax.Array, total: jax.Array) -> jax.Array:
      root = jnp.sqrt(jnp.sqrt(_numerics.nonzero(total)))
      return jnp.where(total == 0, 0, leaf / root)

    excess = _trackers.squared_lengths(
      jax.tree.map(over_fourth_root, observation.jacobian, squares)
    )
    is_warmup = state.step < num_warmup_steps
    mean = state.baseline + (excess - state.baseline) / (
      state.step.astype(excess.dtype) + 1
    )
    # If all gradients were zero so far, there is no scale yet.
    late = jnp.where(state.baseline == 0, excess, state.baseline)
    baseline = jnp.where(is_warmup, mean, late)
    relative = _numerics.divide(excess, baseline)
    present = observation.present
    moved = jax.nn.log_softmax(state.logits + step_size * relative)
    logits = jnp.where(is_warmup, state.logits, moved)
    weights = jax.nn.softmax(jnp.where(present, logits, -jnp.inf))
    new = ExcessMTLState(
      squares, logits, baseline, optax.safe_increment(state.step)
    )
    return weights, _numerics.keep_rows(present, new, state)

  return base.stateful(init, update, needs='jacobian')
