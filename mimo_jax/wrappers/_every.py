"""Weights that are computed every few steps only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mimo_jax import _arguments
from mimo_jax import base


class EveryState(NamedTuple):
  """State of `every`."""

  age: jax.Array  # [] int32, steps since the rule was asked
  balance: base.PyTree  # the state of `balance`


def every(
  balancer: optax.GradientTransformationExtraArgs, steps: int
) -> optax.GradientTransformationExtraArgs:
  """`balance`, which asks its rule every few steps only.

  In the steps between, it uses the last weights, and the rule's state stays as
  it is. Such a step costs one backward pass. A step that asks the rule costs K
  more, under `jax.lax.cond`. On average this is 1 + K/R passes, R = `steps`.
  Under `jax.vmap` nothing is saved, because it computes both branches.

  While all weights are zero, as they are until a first step was finite, every
  step asks the rule. If an objective is absent (`present`) in a step that asks,
  it has no weight until the next step that asks.

  On CPUs convolutions are slow inside `lax.cond` (40 times, JAX 0.10.2), so
  that what is saved is lost again: the gradients that a rule asks for are made
  of convolutions. `mimo_jax.vjp_at_features` avoids this, because only the
  heads are inside. Otherwise decide outside the compiled step: give
  `balancer.update` the argument `weights`, None in a step that asks, and
  `optax.tree.get(state, 'weights')` in the others. The guide has the code.

  Args:
    balancer: what `mimo_jax.balance` returned, with `objectives` and a rule for
      losses or the Gramian. Other rules have no weights to keep.
    steps: R ≥ 1. 1 is `balancer` itself.

  Returns:
    An `optax.GradientTransformationExtraArgs` that takes what `balancer` takes,
    and carries the state of `balancer`, with its weights, in its own.

  Raises:
    ValueError: if `steps` or `balancer` is none of these; when the state is
      made, if `balancer` is a chain, or its state holds no weights; when
      tracing, if the rule needs the Jacobian.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> balancer = mimo_jax.balance(
    ...   mimo_jax.weightings.mgda(), objectives=('fused', 'audio')
    ... )
    >>> balancer = mimo_jax.every(balancer, steps=2)
    >>> def losses_fn(params):
    ...   return {'fused': params @ params, 'audio': 2 * params[0]}
    >>> params = jnp.array([-1.0, 1.0])
    >>> state = balancer.init(params)
    >>> for _ in range(3):
    ...   losses, pullback = jax.vjp(losses_fn, params)
    ...   updates, state = balancer.update(
    ...     pullback, state, params, losses=losses
    ...   )
    ...   params = params - 0.1 * updates
    ...   print(optax.tree.get(state, 'weights').tolist())
    [0.4, 0.6]
    [0.4, 0.6]
    [0.413, 0.587]

  References:
    M. Xu et al., `PSMGD: Periodic Stochastic Multi-Gradient Descent for Fast
    Multi-Objective Optimization <https://arxiv.org/abs/2412.10961>`_, AAAI
    2025.
  """
  _arguments.check('every', _arguments.whole(1), steps=steps)
  _arguments.check_balancer('every', balancer)

  def init(params: base.PyTree) -> EveryState:
    state = balancer.init(params)
    if isinstance(state, dict) or type(state) is tuple:
      raise ValueError(
        'every was given a chain; expected what mimo_jax.balance returns. Keep'
        ' what comes after balance outside, because it acts in each step:'
        ' optax.chain(mimo_jax.every(balance, steps), optax.adam(1e-3)).'
      )
    _weights_in(state)
    return EveryState(jnp.zeros((), jnp.int32), state)

  def update(
    updates: Any,
    state: EveryState,
    params: base.PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[base.PyTree, EveryState]:
    weights = _weights_in(state.balance)
    is_zero = [jnp.all(leaf == 0) for leaf in jax.tree.leaves(weights)]
    is_due = (state.age == 0) | jnp.all(jnp.stack(is_zero))

    def ask(_: None) -> base.PyTree:
      return balancer.update(updates, state.balance, params, **extra_args)[1]

    # The backward pass of every step stays outside of the conditional: inside,
    # XLA optimises less, above all convolutions on CPUs.
    kept = lax.cond(is_due, ask, lambda _: state.balance, None)
    direction, _ = balancer.update(
      updates, kept, params, weights=_weights_in(kept), **extra_args
    )
    return direction, EveryState((state.age + 1) % steps, kept)

  return optax.GradientTransformationExtraArgs(init, update)


def _weights_in(state: base.PyTree) -> base.PyTree:
  weights = optax.tree.get(state, 'weights')
  if weights is None:
    raise ValueError(
      'every keeps the weights in the state of balance, but there are none:'
      ' name the objectives, mimo_jax.every(mimo_jax.balance(rule,'
      ' objectives=(primary, other, ...)), steps).'
    )
  return weights
