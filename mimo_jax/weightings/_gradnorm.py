"""Gradient normalisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


class GradNormState(NamedTuple):
  """State of `gradnorm`."""

  logits: jax.Array  # [K], s
  initial_losses: jax.Array  # [K], those of the first step
  step: jax.Array  # [K] int32, steps taken in which it was present
  optimizer: optax.OptState  # of the logits


def gradnorm(
  alpha: _arguments.Scalar = 1.5,
  optimizer: optax.GradientTransformation | None = None,
) -> base.Weighting:
  """Gradient normalisation (GradNorm).

  Learns weights that bring the lengths of the weighted gradients together. The
  further an objective is behind in reducing its loss, the longer its gradient:

      w = K softmax(s),   rᵢ = (Lᵢ/Lᵢ(0)) / meanⱼ (Lⱼ/Lⱼ(0)),   Ḡ = meanⱼ wⱼ nⱼ
      minimise over s   Σᵢ | wᵢ nᵢ / Ḡ − rᵢ^α |,   Ḡ and r held fixed

  by one step of `optimizer` at each step of training. nᵢ = ‖gᵢ‖ comes from
  `observation.gramian`; α = `alpha`; L(0) are the losses of the first step. A
  step uses the present weights, and what it learns is for the next step. Σ w =
  K.

  The paper differs in three points. It has |wᵢ nᵢ − Ḡ rᵢ^α|, which makes the
  learning rate depend on the scale of the gradients. It takes n of the last
  shared layer; ours is of all params that `balance` sees. It scales w itself;
  other codes and ours learn s. Losses should be positive. One that is 0 in the
  first step counts as constant, Lᵢ/Lᵢ(0) = 1.

  Properties: permutation_equivariant, scale_invariant, loss_scale_free.

  Args:
    alpha: α ≥ 0. Larger: more weight on objectives that are behind. 0 makes all
      weighted gradients equally long.
    optimizer: of s. None is `optax.adam(0.025)`.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.gradnorm()
    >>> rows = jnp.array([[-3.0, 0.0, 4.0], [6.0, 0.0, 8.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> state = rule.init(2)
    >>> for _ in range(2):
    ...   weights, state = rule.update(observation, state)
    ...   print(weights.tolist())
    [1.0, 1.0]
    [1.025, 0.975]

  References:
    Z. Chen, V. Badrinarayanan, C.-Y. Lee and A. Rabinovich, `GradNorm: Gradient
    Normalization for Adaptive Loss Balancing in Deep Multitask Networks
    <https://arxiv.org/abs/1711.02257>`_, ICML 2018, Algorithm 1.
  """
  _arguments.check('gradnorm', _arguments.at_least(0), alpha=alpha)
  learner = _arguments.optimizer_or('gradnorm', optimizer)

  def init(num_objectives: int) -> GradNormState:
    logits = jnp.zeros(num_objectives)
    return GradNormState(
      logits=logits,
      initial_losses=logits,
      step=jnp.zeros(num_objectives, jnp.int32),
      optimizer=learner.init(logits),
    )

  def update(
    observation: base.Observation, state: GradNormState
  ) -> tuple[jax.Array, GradNormState]:
    losses = observation.losses
    present = observation.present
    size = jnp.sum(present, dtype=losses.dtype)
    initial = jnp.where(state.step == 0, losses, state.initial_losses)
    relative = _numerics.divide(losses, initial, 1, where=initial > 0)
    relative = jnp.where(present, jnp.maximum(relative, 0), 0)
    # If all losses have reached zero together, none is behind.
    rates = _numerics.divide(relative, jnp.sum(relative) / size, 1)
    logits = jnp.where(present, state.logits, -jnp.inf)
    weights = size * jax.nn.softmax(logits)
    lengths = jnp.sqrt(jnp.diagonal(observation.gramian))
    # If all gradients are zero, their lengths carry no information.
    lengths = _numerics.divide(lengths, jnp.sum(weights * lengths) / size)
    excess = weights * lengths - rates**alpha
    # A difference within rounding has no sign.
    rounding = 8 * size * jnp.finfo(excess.dtype).eps
    signs = jnp.where(jnp.abs(excess) <= rounding, 0, jnp.sign(excess))
    slopes = weights * signs * lengths  # with respect to log w
    gradient = slopes - weights / size * jnp.sum(slopes)
    moves, optimizer_state = learner.update(
      gradient.astype(state.logits.dtype), state.optimizer, state.logits
    )
    moved = GradNormState(
      logits=optax.apply_updates(state.logits, moves),
      initial_losses=initial,
      step=optax.safe_increment(state.step),
      optimizer=optimizer_state,
    )
    return weights, _numerics.keep_rows(present, moved, state)

  return base.stateful(init, update, needs='gramian')
