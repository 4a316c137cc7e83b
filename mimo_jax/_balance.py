"""The gradient transformation that balances several objectives."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mimo_jax import _devices
from mimo_jax import _numerics
from mimo_jax import _objectives
from mimo_jax import _pullback
from mimo_jax import _reals
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax.weightings import mimo

# A pullback, or a Jacobian in any form.
Updates: TypeAlias = base.PyTree | Callable[[Any], Any]
# Like `mimo_jax.gramian`.
Gramian: TypeAlias = Callable[[base.PyTree, Any], jax.Array]


class BalanceState(NamedTuple):
  """State of `balance`: the last good values."""

  weights: jax.Array | None  # [K], zeros before the first step
  weighting: base.PyTree  # the weighting's own state


def balance(
  weighting: base.Weighting | None = None,
  *,
  objectives: tuple[str, ...] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
  param_specs: base.PyTree = None,
  gramian: Gramian = jacobian.gramian,
) -> optax.GradientTransformationExtraArgs:
  """Combines the gradients of several objectives into one.

  Stands first in an optax chain. What it is given as `updates` may be

  1. the pullback of `losses, pullback = jax.vjp(losses_fn, params)`, the form
     to use: a weighting that needs losses only (MIMO) costs exactly one
     backward pass, the others get the Jacobian row by row;
  2. the Jacobian in either form of `jax.jacrev`: a mapping name -> gradients
     (a sequence, for a sequence of losses), or leaves [K, ...].

  All give the same update.

  Non-finite losses or gradients never enter balance's own state, and the
  update they cause is non-finite, so a guard after it skips the step:
  `optax.chain(balance(), optax.apply_if_finite(optax.adam(1e-3), 5))`.

  Args:
    weighting: the rule, `mimo_jax.mimo()` by default; see
      `mimo_jax.weightings`.
    objectives: names of the objectives, the primary one first. They fix the
      number and order of objectives, so that the state can hold the weights
      (`optax.tree.get(opt_state, 'weights')`) and the state of stateful rules.
      Without them the primary objective is the key 'fused' of a mapping, or
      index 0, and the state holds no weights (None), because their number is
      not known when the state is made.
    axis_name: axis (or axes) of `jax.pmap`, `jax.vmap` or `jax.shard_map` to
      average over: K losses and one gradient for a rule that needs losses
      only, the Jacobian for the others. Not needed under `jax.jit` with
      sharded arrays.
    param_specs: which of these axes params are sharded over inside
      `jax.shard_map` (ZeRO): their `PartitionSpec`s, as in its `in_specs`. A
      shard's gradient is averaged, but not added to that of another shard, and
      the Gramian is summed. The types say so by themselves if `params` are
      given to `update`, but not under `check_vma=False`: there it must be told,
      and `PartitionSpec()` for whole params that `lax.pcast` marked as varying.
    gramian: how inner products of gradients are taken, called like
      `mimo_jax.gramian` with a list of K gradients and `range(K)`: for
      gradients that are laid out in a way that only the caller knows.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` takes the extra
    argument `losses`, in the form that `losses_fn` returns: a mapping name ->
    scalar, a sequence of scalars, or a vector [K]. Rules that say so in
    `Weighting.extra_args` take more:

    - `independent_updates`: a pair, each a pullback or a Jacobian as `updates`
      may be, at the same params, on two batches independent of each other
      (`updates` itself may be one of them).
    - `losses_after`: the losses, in the form of `losses`, of the batch of the
      step before at the params it led to, which are the present ones. Not
      looked at in the first step: any losses do.

    Other extra arguments are ignored.

  Raises:
    ValueError: if `objectives` are not unique names; when tracing, if losses
      are missing or do not match the objectives, the updates do not match the
      losses, an extra argument that the weighting needs is missing, or a
      weighting with state for each objective has no `objectives`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> optimizer = optax.chain(
    ...   mimo_jax.balance(objectives=('fused', 'audio', 'visual')),
    ...   optax.sgd(0.1),
    ... )
    >>> params = jnp.array([1.0, -2.0])
    >>> def losses_fn(params):
    ...   audio, visual = params**2
    ...   return {'fused': audio + visual, 'audio': audio, 'visual': visual}
    >>> opt_state = optimizer.init(params)
    >>> losses, pullback = jax.vjp(losses_fn, params)
    >>> updates, opt_state = optimizer.update(
    ...   pullback, opt_state, params, losses=losses
    ... )
    >>> optax.tree.get(opt_state, 'weights').tolist()
    [1.0, 0.047, 0.953]
  """
  rule = mimo() if weighting is None else weighting
  base.check_weighting('balance', rule)
  names = None if objectives is None else tuple(objectives)
  if names is not None and (
    isinstance(objectives, str) or not names or len(set(names)) != len(names)
  ):
    raise ValueError(
      f'objectives={objectives!r}; expected a tuple of unique names, the'
      " primary one first, such as ('fused', 'audio', 'visual')."
    )
  needs_gradients = {'gramian', 'jacobian'} & set(base.names_of(rule.needs))

  def init(params: base.PyTree) -> BalanceState:
    params = _reals.of_params(params)
    if names is not None:
      weights = jnp.zeros(len(names))
      return BalanceState(weights, rule.init(len(names), params))
    if _has_state_for_each_objective(rule, params):
      raise ValueError(
        'This weighting keeps state for each objective, so balance must know'
        ' them: balance(weighting, objectives=(primary, other, ...)).'
      )
    return BalanceState(None, rule.init(1, params))

  def update(
    updates: Updates,
    state: BalanceState,
    params: base.PyTree | None = None,
    *,
    losses: base.PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[base.PyTree, BalanceState]:
    given = _objectives.read(losses, names)
    means, shares = _devices.mean_of_losses(given.losses, axis_name)
    shards = _devices.shards_of(
      _reals.of_params(params), param_specs, axis_name
    )
    if shards and 'jacobian' in base.names_of(rule.needs):
      raise ValueError(
        'This weighting looks at whole gradients, and params are sharded over'
        f' {axis_name!r}. Take a rule that needs the losses or the Gramian, or'
        ' jax.jit with sharded arrays, without shard_map.'
      )
    step = _Step(
      rule=rule,
      gramian=gramian,
      axis_name=axis_name,
      names=names,
      losses=losses,
      given=given,
      means=means,
      shares=shares,
      params=params,
      shards=shards,
    )
    observation = _observe(step, extra_args)
    plan = _by_gradients if needs_gradients else _by_losses
    direction, weighed = plan(step, observation, updates, state.weighting)
    return direction, _remember(state, weighed)

  return optax.GradientTransformationExtraArgs(init, update)


class _Step(NamedTuple):
  """What `balance` was made with, and the losses of one call of `update`."""

  rule: base.Weighting
  gramian: Gramian
  axis_name: _devices.AxisName
  names: tuple[str, ...] | None
  losses: base.PyTree  # as the user gave them
  given: _objectives.Objectives  # the same in the order of objectives
  means: list[jax.Array]  # K losses, averaged over the devices
  shares: list[float]  # of one device in each mean
  params: base.PyTree | None
  shards: _devices.Shards  # axes that each leaf is sharded over, if any is


class _Weighed(NamedTuple):
  """What the rule made of an observation."""

  weights: base.PyTree  # NaN unless all that was seen is finite
  state: base.PyTree  # of the rule
  good: jax.Array  # [] bool, whether all is finite


def _read(step: _Step, updates: Updates) -> list[base.PyTree]:
  """The K gradients as JAX gave them, in the order of objectives."""
  given = step.given
  if callable(updates):
    gradients = _pullback.rows_of(updates, step.losses)
    return [gradients[i] for i in given.order]
  return _objectives.gradients_of(updates, given, step.params)


def _average(step: _Step, raw: list[base.PyTree]) -> list[base.PyTree]:
  """The K gradients among reals, averaged over the devices."""
  given, gradients = step.given, [_reals.of_gradient(each) for each in raw]
  _devices.check_not_summed(gradients, given.losses, step.axis_name)
  gradients = [
    jax.tree.map(lambda leaf, share=share: leaf * share, gradient)
    for gradient, share in zip(gradients, step.shares, strict=True)
  ]
  return [
    _devices.sum_of_gradients(gradient, step.axis_name, step.shards)
    for gradient in gradients
  ]


def _inner_products(step: _Step, gradients: list[base.PyTree]) -> jax.Array:
  """The Gramian; of shards, summed over the devices that have them."""
  rows = range(len(gradients))
  if not step.shards or step.gramian is not jacobian.gramian:
    return step.gramian(gradients, rows)
  leaves = [jax.tree.leaves(gradient) for gradient in gradients]
  summed = []
  for axes in sorted(set(step.shards)):
    part = [
      [leaf for leaf, own in zip(row, step.shards, strict=True) if own == axes]
      for row in leaves
    ]
    products = jacobian.gramian(part, rows)
    summed.append(lax.psum(products, axes) if axes else products)
  return sum(summed[1:], start=summed[0])


def _observe(step: _Step, extra_args: dict[str, Any]) -> base.Observation:
  """What the rule sees before there are gradients of this batch."""
  observation = base.Observation(losses=_as_vector(step.means))
  if 'losses_after' in step.rule.extra_args:
    after = _objectives.read(_extra(extra_args, 'losses_after'), step.names)
    if len(after.losses) != len(step.means):
      raise ValueError(
        f'losses_after has {len(after.losses)} losses and losses has'
        f' {len(step.means)}; expected as many.'
      )
    means, _ = _devices.mean_of_losses(after.losses, step.axis_name)
    observation = observation._replace(losses_after=_as_vector(means))
  if 'independent_updates' in step.rule.extra_args:
    pair = _extra(extra_args, 'independent_updates')
    if not isinstance(pair, tuple | list) or len(pair) != 2:
      raise ValueError(
        f'independent_updates is a {type(pair).__name__}; expected a pair of'
        ' pullbacks or Jacobians, from two independent batches.'
      )
    first, second = (_average(step, _read(step, each)) for each in pair)
    products = _inner_products(step, [*first, *second])
    cross = products[: len(first), len(first) :]
    observation = observation._replace(cross_gramian=cross)
  return observation


def _observe_gradients(
  step: _Step, observation: base.Observation, gradients: list[base.PyTree]
) -> base.Observation:
  """Adds what the rule sees of the gradients."""
  products = _inner_products(step, gradients)
  observation = observation._replace(gramian=products)
  if 'jacobian' not in base.names_of(step.rule.needs):
    return observation
  if not jax.tree.leaves(gradients[0]):
    raise ValueError(
      'This weighting looks at each number of the gradients, and there are'
      ' none: params have no leaf of real or complex numbers.'
    )
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
  return observation._replace(jacobian=stacked)


def _weigh(
  step: _Step, observation: base.Observation, state: base.PyTree
) -> _Weighed:
  """Lets the rule decide."""
  weights, rule_state = step.rule.update(observation, state)
  good = _all_finite((observation._replace(jacobian=None), weights))
  weights = jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.nan), weights)
  return _Weighed(weights, rule_state, good)


def _combine(gradients: list[base.PyTree], weights: base.PyTree) -> base.PyTree:
  """The combined gradient, or the direction that the rule has made itself."""
  if isinstance(weights, base.Direction):
    return jax.tree.map(
      lambda leaf, like: leaf.astype(jnp.asarray(like).dtype),
      weights.updates,
      gradients[0],
    )
  return jacobian.combine(gradients, weights, range(len(gradients)))


def _pull(step: _Step, updates: Updates, weights: jax.Array) -> base.PyTree:
  """The combined gradient by one backward pass, with all weights at once."""
  given = step.given
  # By linearity the shares may go to the weights: one gradient to sum.
  local = [weights[i] * share for i, share in enumerate(step.shares)]
  if callable(updates):
    cotangents = [
      _pullback.vary_like(weight.astype(loss.dtype), loss)
      for weight, loss in zip(local, given.losses, strict=True)
    ]
    cotangent = given.like_losses(cotangents)
    raw = _pullback.pull(updates, _pullback.like_outputs(updates, cotangent))
    direction = _reals.of_gradient(raw)
    _devices.check_not_summed(direction, given.losses, step.axis_name)
  else:
    rows = _read(step, updates)
    raw, gradients = rows[0], [_reals.of_gradient(each) for each in rows]
    _devices.check_not_summed(gradients, given.losses, step.axis_name)
    direction = _combine(gradients, jnp.stack(local))
  direction = _devices.sum_of_gradients(direction, step.axis_name, step.shards)
  return _reals.like_gradient(direction, raw)


def _by_losses(
  step: _Step,
  observation: base.Observation,
  updates: Updates,
  state: base.PyTree,
) -> tuple[base.PyTree, _Weighed]:
  """The plan for rules that see no gradients: one backward pass."""
  weighed = _weigh(step, observation, state)
  direction = _pull(step, updates, weighed.weights)
  if jax.tree.leaves(weighed.state):
    # The rule has not seen the gradient, but a step that will be skipped must
    # not be remembered. Without state there is nothing to read P numbers for.
    finite = _all_finite(direction)
    over = tuple({axis for axes in step.shards for axis in axes})
    if over:  # no shard is remembered of a step that another has to skip
      finite = lax.psum(~finite, over) == 0
    weighed = weighed._replace(good=weighed.good & finite)
  return direction, weighed


def _by_gradients(
  step: _Step,
  observation: base.Observation,
  updates: Updates,
  state: base.PyTree,
) -> tuple[base.PyTree, _Weighed]:
  """The plan for the others: K backward passes."""
  raw = _read(step, updates)
  gradients = _average(step, raw)
  observation = _observe_gradients(step, observation, gradients)
  weighed = _weigh(step, observation, state)
  direction = _combine(gradients, weighed.weights)
  return _reals.like_gradient(direction, raw[0]), weighed


def _remember(state: BalanceState, weighed: _Weighed) -> BalanceState:
  """The next state; the present one where something was not finite."""

  def keep(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(weighed.good, _numerics.keep_type(new, old), old)

  logged = None
  if state.weights is not None:
    logged = keep(base.for_each_objective(weighed.weights), state.weights)
  kept = jax.tree.map(keep, weighed.state, state.weighting)
  return BalanceState(logged, kept)


def _all_finite(tree: base.PyTree) -> jax.Array:
  leaves = jax.tree.leaves(tree)
  finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
  return jnp.stack([jnp.array(True), *finite]).all()


def _as_vector(losses: list[jax.Array]) -> jax.Array:
  dtype = jnp.result_type(jnp.float32, *losses)
  return jnp.stack([loss.astype(dtype) for loss in losses])


def _extra(extra_args: dict[str, Any], name: str) -> Any:
  if extra_args.get(name) is None:
    raise ValueError(
      f'This weighting needs the extra argument {name!r}, which balance was not'
      ' given: optimizer.update(updates, opt_state, params, losses=losses,'
      f' {name}=...).'
    )
  return extra_args[name]


def _has_state_for_each_objective(
  rule: base.Weighting, params: base.PyTree
) -> bool:
  """Whether the state's shapes depend on the number of objectives."""
  two, three = (
    jax.eval_shape(lambda params, k=k: rule.init(k, params), params)
    for k in (2, 3)
  )
  return two != three
