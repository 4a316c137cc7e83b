"""`balance` in any loop, and a rule on a bare matrix."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import _pullback
from mimo_jax import base
from mimo_jax import jacobian as jacobians


def value_and_updates(
  losses_fn: Callable[..., Any],
  balancer: optax.GradientTransformationExtraArgs,
  has_aux: bool = False,
) -> Callable[..., tuple[Any, base.PyTree, base.PyTree]]:
  """Makes a function that returns the losses and their combined gradient.

  Use it in place of `jax.value_and_grad` in a loop that passes no losses to its
  optimizer: `flax.training.train_state.TrainState`, `flax.nnx.Optimizer`,
  sharpness-aware steps. `balancer` then stands beside the optimizer, not in it,
  and you carry its state as a field of its own.

  Args:
    losses_fn: `losses_fn(params, *args, **kwargs) -> losses`, in a form that
      `balance` takes.
    balancer: what `mimo_jax.balance` (or `mimo_jax.every`) returned.
    has_aux: whether `losses_fn` returns `(losses, aux)`.

  Returns:
    A function `(params, state, *args, extra_args=None, **kwargs) -> (losses,
    updates, state)`, or `((losses, aux), updates, state)`. `state` is that of
    `balancer`, at first `balancer.init(params)`. Give `updates` to an optimizer
    in place of gradients. `extra_args` is a mapping with other arguments of
    `balancer.update`: `present`, `losses_after`, `independent_updates`.

  Raises:
    ValueError: if `balancer` is something else; when the function is called,
      whatever the `update` of `balance` raises.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> def losses_fn(params, target):
    ...   audio, visual = (params - target) ** 2
    ...   return {'fused': audio + visual, 'audio': audio, 'visual': visual}
    >>> balancer = mimo_jax.balance(objectives=('fused', 'audio', 'visual'))
    >>> balanced = mimo_jax.value_and_updates(losses_fn, balancer)
    >>> params = jnp.array([1.0, -2.0])
    >>> state = balancer.init(params)
    >>> losses, updates, state = balanced(params, state, jnp.array([0.0, 1.0]))
    >>> float(losses['fused']), updates.tolist()
    (10.0, [2.0, -12.0])

    In a batch that lacks the visual modality:

    >>> present = {'fused': 8, 'audio': 8, 'visual': 0}  # rows of each loss
    >>> losses, updates, state = balanced(
    ...   params, state, jnp.array([0.0, 1.0]), extra_args={'present': present}
    ... )
    >>> optax.tree.get(state, 'weights').tolist()
    [1.0, 1.0, 0.0]
  """
  _arguments.check_balancer('value_and_updates', balancer)

  @functools.wraps(losses_fn)
  def value_and_updates_fn(
    params: base.PyTree,
    state: base.PyTree,
    *args: Any,
    extra_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
  ) -> tuple[Any, base.PyTree, base.PyTree]:
    losses, pullback, *aux = _pullback.vjp(
      lambda params: losses_fn(params, *args, **kwargs), params, has_aux=has_aux
    )
    updates, state = balancer.update(
      pullback, state, params, losses=losses, **(extra_args or {})
    )
    return ((losses, *aux) if has_aux else losses), updates, state

  return value_and_updates_fn


def combine_with(
  weighting: base.Weighting,
  jacobian: base.PyTree,
  losses: base.PyTree | None = None,
) -> base.PyTree:
  """The direction that a rule makes of a Jacobian in its first step.

  For papers and notebooks, where the Jacobian is a matrix.

  Args:
    weighting: a rule for losses, the Gramian or the Jacobian.
    jacobian: a matrix [K, P], or any pytree of leaves [K, ...]. The primary
      objective has the first row.
    losses: [K], for rules that look at losses. They are NaN by default, and
      such a rule then returns NaN.

  Returns:
    The combined gradient, [P], or a pytree without the first axes.

  Raises:
    ValueError: if the rule needs losses only, and there are none; or if it
      needs more than the gradients of one batch.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> matrix = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> mimo_jax.combine_with(mimo_jax.weightings.upgrad(), matrix).tolist()
    [0.292, 1.901, 1.901]
  """
  base.check_weighting('combine_with', weighting)
  # Else a matrix of integers would round its direction to integers.
  jacobian = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, _numerics.common_type(float, leaf)), jacobian
  )
  rows = jacobians.rows(jacobian)
  size = len(rows)
  needs = base.names_of(weighting.needs)
  if losses is None and needs == ('losses',):
    raise ValueError(
      'combine_with was given a weighting that looks at losses, but no losses;'
      ' expected losses=[...], one for each row.'
    )
  # NumPy's NaN: JAX's would make `jax_debug_nans` raise here, even for rules
  # that ignore the losses.
  unknown: Any = np.full(size, np.nan, jnp.result_type(float))
  if isinstance(losses, Mapping):
    raise ValueError(
      f'combine_with was given losses in a mapping, {losses!r}; expected a'
      f' vector [{size}], in the order of the rows.'
    )
  losses = unknown if losses is None else jnp.asarray(losses)
  if losses.shape != (size,):
    raise ValueError(
      f'combine_with was given losses of shape {losses.shape} and a Jacobian of'
      f' {size} rows; expected one loss for each.'
    )
  observation = base.Observation(
    losses=_numerics.at_least_float32(losses),
    gramian=jacobians.gramian(jacobian),
    jacobian=jacobian,
  )
  state = weighting.init(size, rows[0])
  with _numerics.promotion_for((observation, state)):
    weights, _ = weighting.update(observation, state)
  if isinstance(weights, base.Direction):
    return weights.updates
  return jacobians.combine(jacobian, weights)
