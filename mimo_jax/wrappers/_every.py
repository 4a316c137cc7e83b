"""Weights that are taken anew every few steps only."""

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
  """`balance`, whose rule is asked every few steps only.

  In the steps between, the weights of before are taken, and the rule's state
  stays: those cost one backward pass, and the others K more, under
  `jax.lax.cond`: 1 + K/R on average, R = `steps`. Not under `jax.vmap`, which
  computes both.

  The rule is asked again at once while all weights are zero, as they are until
  a first step was finite. An objective that is absent (`present`) in a step
  that asks has no weight until the next one that does.

  On CPUs convolutions are slow inside `lax.cond` (40 times, JAX 0.10.2): what
  is saved there is lost again. The gradients that a rule asks for are made of
  them, so that there is no way around it under one compiled step, but for
  `mimo_jax.vjp_at_features`, which has the heads alone inside. Otherwise choose
  outside of it: give `balancer.update` the argument `weights`, None in a step
  that asks and `optax.tree.get(state, 'weights')` in the others. The guide has
  the code.

  Args:
    balancer: what `mimo_jax.balance` returned, with `objectives`, of a rule for
      losses or the Gramian. Others have no weights to keep.
    steps: R ≥ 1. 1 is `balancer` itself.

  Returns:
    An `optax.GradientTransformationExtraArgs` that takes what `balancer` takes,
    with its state, weights among it, in its own.

  Raises:
    ValueError: if steps or balancer is none of these; when the state is made,
      if balancer is a chain, or its state holds no weights; when tracing, if
      the rule needs the Jacobian.

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
        'every was given a chain; expected what mimo_jax.balance returns. What'
        ' comes after it goes on in each step, and stays outside:'
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

    # The pass that is due in every step stays out of it: XLA optimises less
    # inside, above all convolutions on CPUs.
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
      'every keeps the weights that stand in the state, and there are none:'
      ' name the objectives, mimo_jax.every(mimo_jax.balance(rule,'
      ' objectives=(primary, other, ...)), steps).'
    )
  return weights
