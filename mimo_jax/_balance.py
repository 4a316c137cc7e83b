"""The gradient transformation that balances several objectives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _combining
from mimo_jax import _devices
from mimo_jax import _known
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

  Stands first in an optax chain. What it is given as `updates` may be

  1. the pullback of `losses, pullback = jax.vjp(losses_fn, params)`, the form
     to use: a weighting that needs losses only (MIMO) costs exactly one
     backward pass, the others get the Jacobian row by row;
  2. the Jacobian in either form of `jax.jacrev`: a mapping name -> gradients
     (a sequence, for a sequence of losses), or leaves [K, ...].

  All give the same update. The pullbacks of `mimo_jax.vjp_at_features`,
  `two_passes` and `vjp_of_examples` stand in place of 1; they bring the Gramian
  and cost one backward pass besides.

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
      not known when the state is made; and with a Jacobian, or losses in a
      vector, an entry that is no loss (an accuracy) counts as an objective,
      which names, or a pullback of separate losses, refuse.
    primary: without objectives, the key of the primary one in a mapping; None
      if no objective is one, as in plain multi-task learning. Rules that treat
      the primary one unlike the others (`Weighting.has_primary`: `mimo`,
      `fused_only`, `pcd`) refuse None.
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
      `mimo_jax.gramian`, the default, with a list of K gradients and
      `range(K)`: for gradients that are laid out in a way that only the caller
      knows. Of a part of the params it gets mappings place -> leaf.
    groups: function from the keys of a parameter's path, strings such as
      `('encoders_audio', 'Dense_0', 'kernel')`, to the group that it is in, any
      key: `mimo_jax.nn.encoder_of` for the encoders of
      `mimo_jax.nn.LateFusion`, one for each and `None` for what is shared;
      `lambda path: path[0]` for modules; `lambda path: path` for tensors. The
      rule is asked once a group, with a Gramian (or Jacobian) of its own, and
      the group takes those weights. The state's weights are a mapping name
      -> [K], where the name of a key is `str(key)`, and its parts joined by '/'
      of a tuple. Rules that draw at random draw the same in each. A rule for
      the Gramian, of one batch or two, is vmapped over all groups, whatever
      their shapes: its solver is compiled once, and its state is one, of leaves
      [G, ...] in the order of the names. A rule for the Jacobian is traced once
      for each shape of a group (of its leaves in order, with their types), and
      not vmapped, which would copy all gradients; its state is a tuple of one
      for each group. A rule that needs losses only is asked once, and has one
      state.
    weigh_on: function from such a path to whether the rule looks at the
      parameter. The weights are for all: those of the last layer that all
      share, say, or without what is frozen (which counts otherwise, although it
      never moves). With a pullback, under `jax.jit`, the K backward passes end
      at the parameters that are looked at, and one more goes through all: for
      the head of a network together not much more than one. Without effect for
      a rule that needs losses only.
    shared: function from such a path to whether the parameter is one that
      several objectives share. Others, such as the head of one objective, are
      not looked at and take the sum of the gradients as it is, which is that
      of the one objective that reaches them: what `mtl_backward` of TorchJD
      does, with the parameters sorted by a function. Some must be shared.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` takes the extra
    argument `losses`, in the form that `losses_fn` returns: a mapping name ->
    scalar, a sequence of scalars, or a vector [K]; of an array [B, K] each
    entry is an objective. Rules that say so in `Weighting.extra_args` take
    more:

    - `independent_updates`: a pair, each a pullback or a Jacobian as `updates`
      may be, at the same params, on two batches independent of each other
      (`updates` itself may be one of them).
    - `losses_after`: the losses, in the form of `losses`, of the batch of the
      step before at the params it led to, which are the present ones. Not
      looked at in the first step: any losses do. Finite for what was absent,
      too.

    - `weights`, which any rule for losses or the Gramian takes: [K], or with
      groups a mapping name -> [K], to combine with in place of the rule's, by
      one backward pass. The state stays as it is (`mimo_jax.every`).

    - `present`, which every rule takes: how many rows each loss is the mean
      of, numbers or booleans in the form of `losses`. One of 0 has no weight
      and changes nothing for the others, nor in what is remembered of it; its
      loss is not looked at, nor its gradient, which must be finite. With
      `axis_name` the losses are averaged over all rows, wherever they are.
    - `present_after` and `independent_present`, with `axis_name`: the same for
      `losses_after`, and, a pair, for `independent_updates` (then pullbacks).
      Without, these are averaged over the devices, all alike.

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
      'balance was given primary=None and a weighting for which the primary'
      ' objective is unlike the others, as the fused loss is for mimo. Expected'
      ' the name of one, or a weighting without (Weighting.has_primary), such'
      ' as mimo_jax.weightings.mgda().'
    )
  needs = {*base.names_of(rule.needs)}
  needs_rows = bool(needs & {'gramian', 'jacobian'})
  sees_gradients = needs_rows or 'cross_gramian' in needs
  if groups is not None and 'jacobian' in needs:
    # Traced once for all groups of one shape.
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
        ' the BalanceState that its init, or its last update, returned. That of'
        ' a chain goes into the update of the chain; that of a checkpoint is'
        ' restored in the form of init(params).'
      )

    def read(losses: base.PyTree) -> _objectives.Objectives:
      return _objectives.read(losses, names, primary)

    given = read(losses)
    if callable(updates):
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
        updates = _presence.scale_pullback(updates, losses, factors, given)
        losses = _presence.scale(factors, given)
        given = read(losses)
    if axis_name is not None:
      extra_args = _presence.of_other_batches(
        extra_args, rule.extra_args, read, losses, axis_name
      )
    means, shares = _devices.mean_of_losses(given.losses, axis_name)
    shards = _devices.shards_of(real_params, param_specs, axis_name)
    if shards and 'jacobian' in base.names_of(rule.needs):
      raise ValueError(
        'This weighting looks at whole gradients, and params are sharded over'
        f' {axis_name!r}. Take a rule that needs the losses or the Gramian, or'
        ' jax.jit with sharded arrays, without shard_map.'
      )
    step = _observing.Step(
      rule=rule,
      gramian=jacobian.gramian if gramian is None else gramian,
      axis_name=axis_name,
      names=names,
      primary=primary,
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
    if needs_rows and _known.is_brought(updates):
      observations = _known.observe(step, observations, updates)
      plan = _combining.by_losses
    direction, weighed = plan(step, observations, updates, state.weighting)
    return direction, _remember(state, weighed, step.parts)

  return optax.GradientTransformationExtraArgs(init, update)


def _check_state(
  state: BalanceState, names: tuple[str, ...] | None, parts: _parts.Parts
) -> None:
  """Refuses the state of other objectives, or of other groups."""
  shapes = jax.tree.map(jnp.shape, state.weights)
  expected = None
  if names is not None:
    expected = _named([(len(names),)] * len(parts.parts), parts)
  if shapes != expected:
    raise ValueError(
      f'The state has weights of shape {shapes}, and this balance, with'
      f' objectives={names}, those of shape {expected}. Go on with the balance'
      ' that made the state, or begin anew with init(params).'
    )


def _init_of_rule(
  rule: base.Weighting,
  num_objectives: int,
  params: base.PyTree,
  parts: _parts.Parts,
) -> base.PyTree:
  """The state of the rule; with groups, of all of them."""
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
  """The next state; the present one where something was not finite."""

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
