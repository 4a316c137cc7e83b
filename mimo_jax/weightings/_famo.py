"""Fast adaptive multitask optimization."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


class FAMOState(NamedTuple):
  """State of `famo`."""

  step: jax.Array  # [] int32, steps taken
  logits: jax.Array  # [K], ξ
  losses: jax.Array  # [K], of the last step
  had_rows: jax.Array  # [K] bool, which were present in the last step
  optimizer: base.PyTree  # state of the optimizer of ξ


def famo(
  optimizer: optax.GradientTransformation | None = None,
  minima: _arguments.Scalar | _arguments.Vector = 0.0,
) -> base.Weighting:
  """Fast adaptive multitask optimization (FAMO).

  Lets all losses fall at the same relative rate, without K gradients. It learns
  the weights from how much the last step lowered the logarithm of each loss:

      z = softmax(ξ),   D_i = L_i - b_i
      S = c Σ z_i log D_i,   w_i = ∂S/∂L_i = c z_i / D_i,   Σ w_i = 1

  b = `minima`; c = 1 / Σ (z_i / D_i) counts as a constant. After the step, on
  the same batch, ξ moves with `optimizer` down

      z_i (δ_i - Σ z_j δ_j),   δ_i = log D_i(before) - log D_i(after)

  so that slow losses gain weight. The losses after the step,
  `Observation.losses_after`, cost a forward pass, and arrive with the next
  call. That call first moves ξ and then weighs the present losses. The first
  call ignores them.

  The authors add 1e-8 to D, which matters if losses are that small. Here only
  ratios count; `minima=-1e-8` gives the authors' rule. Their released code has
  a weight decay of 1e-5. An objective whose loss is not above b has weight 0.
  If its loss is not above b before or after a step, the step does not move its
  logit (except by the optimizer's momentum and decay). If this holds for all
  objectives, the weights are z.

  Properties: simplex, permutation_equivariant, linear_under_scaling,
    loss_scale_free, unit_free.

  Args:
    optimizer: of ξ; by default Adam with learning rate 0.025, and 1e-3 ξ added
      to its gradient. A larger learning rate reacts faster to slow losses; more
      decay keeps z more even.
    minima: b, below all losses, one number or K of them.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.famo()
    >>> first = mimo_jax.Observation(
    ...   losses=jnp.array([1.0, 2.0]), losses_after=jnp.zeros(2)
    ... )
    >>> weights, state = rule.update(first, rule.init(2))
    >>> weights.tolist()
    [0.667, 0.333]
    >>> second = mimo_jax.Observation(
    ...   losses=jnp.array([1.0, 2.0]), losses_after=jnp.array([0.9, 1.2])
    ... )
    >>> weights, state = rule.update(second, state)
    >>> weights.tolist(), state.logits.tolist()
    ([0.678, 0.322], [0.025, -0.025])

  References:
    B. Liu, Y. Feng, P. Stone and Q. Liu, `FAMO: Fast Adaptive Multitask
    Optimization <https://arxiv.org/abs/2306.03792>`_, NeurIPS 2023,
    Algorithm 1.
  """
  learner = _arguments.optimizer_or('famo', optimizer, _adam_with_decay)
  _arguments.check('famo', _arguments.each(_arguments.finite()), minima=minima)

  def gaps(losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """D, 1 where it is not positive, and where that is."""
    b = _arguments.for_each_objective('famo', 'minima', minima, losses)
    gap = losses - b
    spent = gap < jnp.finfo(gap.dtype).tiny  # NaN is not
    return jnp.where(spent, 1, gap), spent

  def init(num_objectives: int) -> FAMOState:
    zeros = jnp.zeros(num_objectives)
    return FAMOState(
      step=jnp.zeros((), jnp.int32),
      logits=zeros,
      losses=zeros,
      had_rows=jnp.ones(num_objectives, bool),
      optimizer=learner.init(zeros),
    )

  def moved(
    logits: jax.Array,
    optimizer_state: base.PyTree,
    before: jax.Array,
    after: jax.Array,
    had_rows: jax.Array,
  ) -> tuple[jax.Array, base.PyTree]:
    """ξ and the state of its optimizer, after one step of it."""
    gap_before, spent_before = gaps(before)
    gap_after, spent_after = gaps(after)
    counts = ~(spent_before | spent_after) & had_rows
    # If no objective counts, all shares are 0, and so is the gradient.
    shares = jnp.where(counts, jax.nn.softmax(logits), 0)
    shares /= jnp.where(jnp.any(counts), jnp.sum(shares), 1)
    # The logarithm of a quotient, because a difference of logarithms would have
    # larger rounding errors. Quotients may overflow.
    limits = jnp.finfo(gap_after.dtype)
    quotient = jnp.clip(gap_before / gap_after, limits.tiny, limits.max)
    progress = jnp.where(counts, jnp.log(quotient), 0)
    gradient = shares * (progress - jnp.sum(shares * progress))
    old = logits, optimizer_state
    moves, optimizer_state = learner.update(
      gradient.astype(logits.dtype), optimizer_state, logits
    )
    # Logits of absent objectives do not move, not even by momentum.
    new = logits + moves, optimizer_state
    kept: tuple[jax.Array, base.PyTree] = _numerics.keep_rows(
      had_rows, new, old
    )
    return kept

  def update(
    observation: base.Observation, state: FAMOState
  ) -> tuple[jax.Array, FAMOState]:
    losses = observation.losses
    old = state.logits, state.optimizer
    new = moved(*old, state.losses, observation.losses_after, state.had_rows)
    # In the first call there is no earlier step.
    logits, optimizer_state = jax.tree.map(
      lambda new, old: jnp.where(state.step == 0, old, new), new, old
    )
    gap, spent = gaps(losses)
    has_rows = observation.has_rows
    # If the losses of all present objectives are spent, weights are equal.
    spent = jnp.where(jnp.all(spent | ~has_rows), False, spent) | ~has_rows
    smallest = jnp.min(jnp.where(spent, jnp.inf, gap))
    scores = jnp.where(spent, 0, logits + jnp.log(smallest / gap))
    return jax.nn.softmax(scores, where=~spent), FAMOState(
      step=optax.safe_increment(state.step),
      logits=logits,
      losses=losses,
      had_rows=has_rows,
      optimizer=optimizer_state,
    )

  return base.stateful(init, update, needs='losses_after')


def _adam_with_decay() -> optax.GradientTransformation:
  return optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.025))
