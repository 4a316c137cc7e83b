"""Impartial multi-task learning, its loss balance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mimo_jax import _arguments
from mimo_jax import base


class IMTLLState(NamedTuple):
  """State of `imtl_l`."""

  log_scales: jax.Array  # [K], s
  optimizer: base.PyTree  # state of the optimizer of s


def imtl_l(
  optimizer: optax.GradientTransformation | None = None,
  init: _arguments.Scalar | _arguments.Vector = 0.0,
) -> base.Weighting:
  """Impartial multi-task learning, loss balance (IMTL-L).

  Each loss is multiplied by a learned scale exp(s_i) that makes all of them
  the same size:

      S = Σ exp(s_i) L_i - s_i,   w_i = ∂S/∂L_i = exp(s_i)
      ∂S/∂s_i = exp(s_i) L_i - 1

  At rest s_i = -log L_i and every weighted loss is 1. This is uncertainty
  weighting with the sign of s turned, and twice the weights. s starts at
  `init`. Each step uses the present s, then moves it down ∂S/∂s with
  `optimizer`, from the same losses.

  The authors and most libraries train s along with the network, by the same
  optimizer; here it is state of the rule and has its own. Losses are taken to
  be positive. One that is not would push s up for ever; it has nothing left to
  lose, and here no slope.

  Properties: permutation_equivariant, linear_under_scaling.

  Args:
    optimizer: of s; by default `optax.adam(0.025)`. A larger learning rate
      follows the losses more closely.
    init: first s, one number or K of them. Larger: larger weights.

  Returns:
    A `mimo_jax.Weighting`; its state carries s and the state of its optimizer.

  Raises:
    ValueError: if optimizer is not one of optax, or init not a finite number or
      vector; when tracing, if init does not have K entries.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> rule = mimo_jax.weightings.imtl_l(optax.sgd(0.25))
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.2, 3.0]))
    >>> state = rule.init(2)
    >>> for _ in range(100):
    ...   weights, state = rule.update(observation, state)
    >>> weights.tolist()
    [5.0, 0.333]

  References:
    L. Liu et al., `Towards Impartial Multi-task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021.
  """
  _arguments.check_optimizer('imtl_l', optimizer)
  _arguments.check_numbers('imtl_l', 'init', init)
  learner = optax.adam(0.025) if optimizer is None else optimizer

  def init_state(num_objectives: int, params: base.PyTree = None) -> IMTLLState:
    del params
    shape = np.shape(init) or (num_objectives,)
    first = jnp.broadcast_to(jnp.asarray(init, jnp.result_type(float)), shape)
    return IMTLLState(first, learner.init(first))

  def update(
    observation: base.Observation, state: IMTLLState
  ) -> tuple[jax.Array, IMTLLState]:
    losses, s = observation.losses, state.log_scales
    _arguments.for_each_objective('imtl_l', 'init', s, losses)
    # Triggers where the optimizer overshoots.
    scales = jnp.minimum(jnp.exp(s), jnp.finfo(losses.dtype).max)
    slope = jnp.where(losses <= 0, 0, scales * losses - 1)
    moves, optimizer_state = learner.update(
      slope.astype(s.dtype), state.optimizer, s
    )
    next_state = IMTLLState(s + moves, optimizer_state)
    return scales.astype(losses.dtype), next_state

  return base.stateful(init_state, update, needs='losses')
