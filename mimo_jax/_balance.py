"""The gradient transformation that balances several objectives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _combining
from mimo_jax import _devices
from mimo_jax import _numerics
from mimo_jax import _objectives
from mimo_jax import _observing
from mimo_jax import _parts
from mimo_jax import _presence
from mimo_jax import _pullback
from mimo_jax import _reals
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax.per_encoder import _paths
from mimo_jax.pullbacks import _base as pullbacks
from mimo_jax.weightings import mimo


class BalanceState(NamedTuple):
  """State of `balance`: the last good values."""

  # [K], zeros before the first step; with groups a mapping name -> [K]
  weights: base.PyTree
  weighting: base.PyTree  # the weighting's own state


def balance(
  weighting: base.Weighting | None = None,
  *,
  objectives: tuple[str, ...] | None = None,
  primary: str | None = _objectives.PRIMARY,
  axis_name: str | tuple[str, ...] | None = None,
  param_specs: base.PyTree = None,
  gramian: _observing.Gramian | None = None,
  groups: Callable[[_paths.Path], Any] | None = None,
  weigh_on: Callable[[_paths.Path], bool] | None = None,
  shared: Callable[[_paths.Path], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Combines the gradients of several objectives into one.

  Put it first in an optax chain. Its `updates` may be

  1. the pullback of `losses, pullback = jax.vjp(losses_fn, params)`. Use this
     form if you can: a weighting that needs losses only (MIMO) then costs
     exactly one backward pass, and the others get the Jacobian row by row;
  2. the Jacobian in either form of `jax.jacrev`: a mapping name -> gradients
     (a sequence, for a sequence of losses), or leaves [K, ...].

  Both give the same update. The pullbacks of `mimo_jax.vjp_at_features`,
  `two_passes` and `vjp_of_examples` can replace that of 1. They bring the
  Gramian, and the combined gradient costs one backward pass.

  Non-finite losses or gradients never enter the state of `balance`. Their
  update is non-finite, so that a guard after `balance` can skip the step:
  `optax.chain(balance(), optax.apply_if_finite(optax.adam(1e-3), 5))`.

  Args:
    weighting: the rule, `mimo_jax.mimo()` by default; see
      `mimo_jax.weightings`.
    objectives: names of the objectives, the primary one first. They fix the
      number and order of objectives. The state can then hold the weights
      (`optax.tree.get(opt_state, 'weights')`), and the state of stateful rules.
      Without names the primary objective is the key 'fused' of a mapping, or
      index 0, and the state holds None for the weights, because their number is
      not known when the state is made. An entry of the losses that is no loss
      (an accuracy) is then refused only with a pullback of separate losses;
      with a Jacobian, or losses in a vector, it counts as an objective.
    primary: without `objectives`, the key of the primary objective in a
      mapping; None if there is no primary objective, as in plain multi-task
      learning. Rules that treat the primary one unlike the others
      (`Weighting.has_primary`: `mimo`, `fused_only`, `pcd`) refuse None.
    axis_name: axis (or axes) of `jax.pmap`, `jax.vmap` or `jax.shard_map` to
      average over: K losses and one gradient for a rule that needs losses
      only, the Jacobian for the others. Not needed under `jax.jit` with
      sharded arrays.
    param_specs: over which of these axes params are sharded inside
      `jax.shard_map` (ZeRO): their `PartitionSpec`s, as in its `in_specs`. The
      gradient of a shard is averaged, but not added to that of another shard,
      and the Gramian is summed over the shards. If you give `params` to
      `update`, the types tell which params are sharded. Under
      `check_vma=False` they do not: pass the specs there, and also for whole
      params that `lax.pcast` marked as varying (`PartitionSpec()`).
    gramian: function that computes the inner products of gradients, for
      gradients that are laid out in a way that only you know. It is called like
      `mimo_jax.gramian`, the default, with a list of K gradients and
      `range(K)`. If the rule looks at a part of the params, the gradients are
      mappings place -> leaf.
    groups: function from a parameter's path, a tuple of strings such as
      `('encoders_audio', 'Dense_0', 'kernel')`, to the group that it is in, any
      key. Examples are `mimo_jax.nn.encoder_of` (a group for each encoder of
      `mimo_jax.nn.LateFusion`, and `None` for what is shared),
      `lambda path: path[0]` for modules, and `lambda path: path` for tensors.
      The rule is asked once for each group, with that group's Gramian (or
      Jacobian), and the group takes those weights. The weights in the state
      are a mapping name -> [K]. The name of a key is `str(key)`; the parts of
      a tuple are joined by '/'. Rules that draw at random draw the same in each
      group. A rule for the Gramian, of one batch or two, is vmapped over all
      groups, whatever their shapes: its solver is compiled once, and it has one
      state, of leaves [G, ...] in the order of the names. A rule for the
      Jacobian is traced once for each shape of a group (of its leaves in order,
      with their types). It is not vmapped, because that would copy all
      gradients; its state is a tuple with an entry for each group. A rule that
      needs losses only is asked once, and has one state.
    weigh_on: function from such a path to whether the rule looks at the
      parameter. The weights are for all parameters. Look at the last layer that
      all objectives share, for example, or leave out frozen parameters, which
      count otherwise although they never move. With a pullback, under
      `jax.jit`, the K backward passes end at the parameters that are looked at,
      and one more goes through all. For the head of a network, this costs not
      much more than one pass. No effect on a rule that needs losses only.
    shared: function from such a path to whether several objectives share the
      parameter. The rule does not look at the others, such as the head of one
      objective. They take the plain sum of the gradients, which is that of the
      one objective that reaches them. `mtl_backward` of TorchJD does the same
      with lists of parameters. At least one parameter must be shared.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` takes the extra
    argument `losses`, in the form that `losses_fn` returns: a mapping name ->
    scalar, a sequence of scalars, or a vector [K]. In an array [B, K] each
    entry is an objective. The other extra arguments are optional, unless the
    rule names them in `Weighting.extra_args`:

    - `independent_updates`: a pair. Each is a pullback or a Jacobian, like
      `updates`, at the same params, of two batches that are independent of each
      other (one of them may be `updates` itself).
    - `losses_after`: the losses of the batch of the previous step at the
      present params, to which that step led, in the form of `losses`. Ignored
      in the first step, where any losses will do. Must be finite even for an
      objective that was absent.
    - `weights`, for rules that need losses or the Gramian: [K], or with groups
      a mapping name -> [K]. They replace the rule's weights, and the step costs
      one backward pass. The state stays as it is. See `mimo_jax.every`.
    - `present`, for every rule: the number of rows that each loss is the mean
      of, as numbers or booleans in the form of `losses`. An objective with 0
      rows has no weight. It changes nothing for the others, and what is
      remembered of it stays as it was. Its loss is ignored, and so is its
      gradient, which must be finite. With `axis_name` the losses are averaged
      over all rows, wherever they are.
    - `present_after` and `independent_present`, with `axis_name`: the same for
      `losses_after`, and, as a pair, for `independent_updates` (which must then
      be pullbacks). Without them, these are averaged over the devices with
      equal weight.

    Other extra arguments are ignored.

  Raises:
    ValueError: if `objectives` are not unique names; if `weigh_on`, in any
      group, or `shared` is true of no parameter; when tracing, if losses
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
  names = _objectives.names_of(objectives)
  if names is not None and (not names or len(set(names)) != len(names)):
    raise ValueError(
      f'objectives={objectives!r}; expected a tuple of unique names, the'
      " primary one first, such as ('fused', 'audio', 'visual')."
    )
  if primary is None and rule.has_primary:
    raise ValueError(
      'balance was given primary=None and a weighting that treats the primary'
      ' objective unlike the others, as mimo treats the fused loss. Expected'
      ' the name of the primary objective, or a weighting that needs none'
      ' (Weighting.has_primary is False), such as mimo_jax.weightings.mgda().'
    )
  needs = {*base.names_of(rule.needs)}
  needs_rows = bool(needs & {'gramian', 'jacobian'})
  sees_gradients = needs_rows or 'cross_gramian' in needs
  if groups is not None and 'jacobian' in needs:
    # With jit, groups of one shape are traced only once.
    rule = rule._replace(update=jax.jit(rule.update))
  choice = _parts.Choice(groups, weigh_on, shared)
  _parts.check(choice)

  def init(params: base.PyTree) -> BalanceState:
    params = _reals.of_params(params)
    parts = _parts.parts_of(choice, params, sees_gradients)
    if names is not None:
      zeros = [jnp.zeros(len(names)) for _ in parts.parts]
      rule_state = _init_of_rule(rule, len(names), params, parts)
      return BalanceState(_numerics.own(_named(zeros, parts)), rule_state)
    if _has_state_for_each_objective(rule, params):
      raise ValueError(
        'This weighting keeps state for each objective, so balance must know'
        ' them: balance(weighting, objectives=(primary, other, ...)).'
      )
    return BalanceState(None, _init_of_rule(rule, 1, params, parts))

  def update(
    updates: _observing.Updates,
    state: BalanceState,
    params: base.PyTree | None = None,
    *,
    losses: base.PyTree | None = None,
    weights: base.PyTree | None = None,
    present: base.PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[base.PyTree, BalanceState]:
    if not hasattr(state, 'weighting'):
      raise ValueError(
        f'balance was given a state that is a {type(state).__name__}; expected'
        ' the BalanceState that its init, or its last update, returned. The'
        ' state of a chain goes into the update of the chain. Restore the state'
        ' of a checkpoint in the form of init(params).'
      )

    def read(losses: base.PyTree) -> _objectives.Objectives:
      return _objectives.read(losses, names, primary)

    given = read(losses)
    if _pullback.is_one(updates, params):
      _pullback.check_types(updates, losses)
    real_params = _reals.of_params(params)
    parts = _parts.parts_of(choice, real_params, sees_gradients)
    _check_state(state, names, parts)
    if names is None:
      _objectives.check_all_have_gradients(given, updates)
    rows = None
    if present is not None:
      rows = _presence.rows_of(present, given)
      if axis_name is not None:
        rows, factors = _presence.over_devices(rows, given, axis_name)
        updates = _presence.scale_pullback(
          updates, losses, factors, given, params
        )
        losses = _presence.scale(factors, given)
        given = read(losses)
    if axis_name is not None:
      extra_args = _presence.of_other_batches(
        extra_args, rule.extra_args, read, losses, params, axis_name
      )
    means, shares = _devices.mean_of_losses(given.losses, axis_name)
    if sees_gradients:
      _devices.check_whole(real_params, given.losses, axis_name)
    shards = _devices.shards_of(real_params, param_specs, axis_name)
    if shards and 'jacobian' in base.names_of(rule.needs):
      raise ValueError(
        'This weighting looks at whole gradients, but params are sharded over'
        f' {axis_name!r}. Take a rule that needs the losses or the Gramian, or'
        ' use jax.jit with sharded arrays, without shard_map.'
      )
    step = _observing.Step(
      rule=rule,
      gramian=jacobian.gramian if gramian is None else gramian,
      axis_name=axis_name,
      read=read,
      losses=losses,
      given=given,
      means=means,
      shares=shares,
      parts=parts,
      shards=shards,
      params=params,
      rows=rows,
    )
    if weights is not None:
      return _combining.with_given(step, updates, weights), state
    observations = _observing.observe(step, extra_args)
    plan = _combining.by_gradients if needs_rows else _combining.by_losses
    if needs_rows and isinstance(updates, pullbacks.Pullback):
      observations = _observing.observe_known(step, observations, updates)
      plan = _combining.by_losses
    direction, weighed = plan(step, observations, updates, state.weighting)
    return direction, _remember(state, weighed, step.parts)

  return optax.GradientTransformationExtraArgs(init, update)


def _check_state(
  state: BalanceState, names: tuple[str, ...] | None, parts: _parts.Parts
) -> None:
  """Raises if the state was made for other objectives or other groups."""
  shapes = jax.tree.map(jnp.shape, state.weights)
  expected = None
  if names is not None:
    expected = _named([(len(names),)] * len(parts.parts), parts)
  if shapes != expected:
    has, wanted = (
      'no weights' if one is None else f'weights of shape {one}'
      for one in (shapes, expected)
    )
    raise ValueError(
      f'The state has {has}; expected {wanted}, of this balance with'
      f' objectives={names}. Use a state with the balance that made it, or'
      ' begin anew with init(params).'
    )


def _init_of_rule(
  rule: base.Weighting,
  num_objectives: int,
  params: base.PyTree,
  parts: _parts.Parts,
) -> base.PyTree:
  """Returns the initial state of the rule; with groups, of all groups."""
  leaves = _parts.leaves_at(params, parts.weighing)
  states = [
    rule.init(num_objectives, _parts.numbered(leaves, part.weighing))
    for part in parts.parts
  ]
  if not parts.grouped:
    return states[0]
  if 'jacobian' in base.names_of(rule.needs):
    return tuple(states)
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _remember(
  state: BalanceState, weighed: _combining.Weighed, parts: _parts.Parts
) -> BalanceState:
  """Returns the next state, or the old one if something was not finite."""

  def keep(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(weighed.good, _numerics.keep_type(new, old), old)

  logged = None
  if state.weights is not None:
    each = [base.for_each_objective(weights) for weights in weighed.weights]
    logged = jax.tree.map(keep, _named(each, parts), state.weights)
  kept = jax.tree.map(keep, weighed.state, state.weighting)
  return BalanceState(logged, kept)


def _named(weights: list[Any], parts: _parts.Parts) -> base.PyTree:
  """Weights [K] of each part, as the state holds them."""
  if parts.names is None:
    return weights[0]
  if not parts.grouped:  # the same for all groups
    return dict.fromkeys(parts.names, weights[0])
  return dict(zip(parts.names, weights, strict=True))


def _has_state_for_each_objective(
  rule: base.Weighting, params: base.PyTree
) -> bool:
  """Whether the state's shapes depend on the number of objectives."""
  two, three = (
    jax.eval_shape(lambda params, k=k: rule.init(k, params), params)
    for k in (2, 3)
  )
  return two != three
