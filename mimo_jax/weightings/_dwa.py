"""Dynamic weight average."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


class DWAState(NamedTuple):
  """State of `dwa`."""

  step: jax.Array  # [] int32, steps taken in this epoch
  running: jax.Array  # [K], sum over this epoch so far, divided by its length
  newer: jax.Array  # [K], L(e-1), mean over the last whole epoch
  older: jax.Array  # [K], L(e-2), mean over the epoch before that
  seen: jax.Array  # [K] int32, steps of this epoch in which it was present


def dwa(
  temperature: _arguments.Scalar = 2.0, steps_per_epoch: int = 1
) -> base.Weighting:
  """Dynamic weight average (DWA).

  Losses that fall slowly get more weight. The rate of a loss is the ratio of
  its means L_i(e) in the last two whole epochs:

      r_i = L_i(e-1) / L_i(e-2),   w = K softmax(r/T)

  T = `temperature`, e is the present epoch, and Σ w_i = K. All weights are 1 in
  the first two epochs, and whenever all losses fall at the same rate. The unit
  of a loss does not matter. The weights are constants of S = Σ w_i L_i.

  The rule counts epochs in calls of `update`; the authors average at the end of
  each pass over the data. With the default every step is an epoch, which
  follows the noise of single batches. Losses should be positive. A loss whose
  older mean is 0 has no rate, and takes r_i = 1.

  Properties: permutation_equivariant, linear_under_scaling, loss_scale_free.

  Args:
    temperature: T > 0. Larger: more even weights.
    steps_per_epoch: steps over which losses are averaged, at least 1. Larger:
      less noise, slower to follow.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.dwa(temperature=1.0)
    >>> state = rule.init(2)
    >>> for losses in ([0.8, 0.8], [0.4, 0.8], [0.2, 0.8]):
    ...   observation = mimo_jax.Observation(jnp.array(losses))
    ...   weights, state = rule.update(observation, state)
    ...   print(weights.tolist())
    [1.0, 1.0]
    [1.0, 1.0]
    [0.755, 1.245]

  References:
    S. Liu, E. Johns and A. J. Davison, `End-to-End Multi-Task Learning with
    Attention <https://arxiv.org/abs/1803.10704>`_, CVPR 2019.
  """
  _arguments.check('dwa', _arguments.above(0), temperature=temperature)
  _arguments.check('dwa', _arguments.whole(1), steps_per_epoch=steps_per_epoch)

  def init(num_objectives: int) -> DWAState:
    zeros = jnp.zeros(num_objectives)
    seen = jnp.zeros(num_objectives, jnp.int32)
    return DWAState(jnp.zeros((), jnp.int32), zeros, zeros, zeros, seen)

  def update(
    observation: base.Observation, state: DWAState
  ) -> tuple[jax.Array, DWAState]:
    losses = observation.losses
    largest = jnp.finfo(state.older.dtype).max
    # 1 in the first two epochs, and if a loss was 0 during a whole epoch.
    rates = _numerics.divide(state.newer, state.older, 1)
    rates = jnp.clip(rates, -largest, largest)
    has_rows = observation.has_rows
    size = jnp.sum(has_rows, dtype=losses.dtype)
    weights = size * _numerics.softmax(rates, temperature, where=has_rows)

    running = state.running + jnp.where(has_rows, losses, 0) / steps_per_epoch
    seen = state.seen + has_rows.astype(jnp.int32)
    step = (state.step + 1) % steps_per_epoch
    is_end = step == 0
    # An epoch does not count for an objective that was absent throughout.
    is_end_of = is_end & (seen > 0)
    count = jnp.maximum(seen, 1).astype(running.dtype)
    mean = running * (steps_per_epoch / count)
    return weights, DWAState(
      step=step,
      running=jnp.where(is_end, 0, running),
      newer=jnp.where(is_end_of, mean, state.newer),
      older=jnp.where(is_end_of, state.newer, state.older),
      seen=jnp.where(is_end, 0, seen),
    )

  return base.stateful(init, update, needs='losses')
