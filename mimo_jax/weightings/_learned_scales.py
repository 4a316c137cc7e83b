"""Rules that multiply each loss by a scale which they learn from it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def learned_scales(
  rule: str,
  make_state: Callable[[jax.Array, base.PyTree], Any],
  optimizer: optax.GradientTransformation | None,
  initial: _arguments.Scalar | _arguments.Vector,
  *,
  sign: int,
  factor: float,
) -> base.Weighting:
  """Descent on S = f Σ exp(±s_i) L_i ∓ s_i by s, with weights ∂S/∂L.

  `sign` is ±, 1 or -1, and `factor` f. `make_state` makes a named tuple of s,
  [K], and the state of its optimizer.
  """
  learner = _arguments.optimizer_or(rule, optimizer)
  _arguments.check(rule, _arguments.each(_arguments.finite()), init=initial)

  def init(num_objectives: int) -> Any:
    shape = np.shape(initial) or (num_objectives,)
    s = jnp.broadcast_to(jnp.asarray(initial, float), shape)
    return make_state(s, learner.init(s))

  def update(observation: base.Observation, state: Any) -> tuple[Any, Any]:
    losses = observation.losses
    s, optimizer_state = state
    _arguments.for_each_objective(rule, 'init', s, losses)
    # Triggers if the optimizer overshoots.
    scales = jnp.minimum(jnp.exp(sign * s), jnp.finfo(losses.dtype).max)
    slopes = sign * factor * (scales * losses - 1)
    # A loss that is not positive would pull its s without end.
    slopes = jnp.where(losses <= 0, 0, slopes)
    moves, optimizer_state = learner.update(
      slopes.astype(s.dtype), optimizer_state, s
    )
    moved = make_state(s + moves, optimizer_state)
    # Scales of absent objectives do not move, not even by momentum.
    return factor * scales, _numerics.keep_rows(
      observation.has_rows, moved, state
    )

  return base.stateful(init, update, needs='losses')
