"""Asks a rule for weights, and combines the gradients with them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _devices
from mimo_jax import _numerics
from mimo_jax import _observing
from mimo_jax import _parts
from mimo_jax import _pullback
from mimo_jax import _reals
from mimo_jax import base
from mimo_jax import jacobian

# Pairs: leaves, and the weights that they take.
Assigned: TypeAlias = Sequence[tuple[_parts.Places, base.PyTree]]


class Weighed(NamedTuple):
  """What a rule returned for its observations."""

  weights: list[base.PyTree]  # for each part
  state: base.PyTree  # of the rule
  good: jax.Array  # [] bool, whether observations and weights are finite


def by_losses(
  step: _observing.Step,
  observations: list[base.Observation],
  updates: _observing.Updates,
  state: base.PyTree,
) -> tuple[base.PyTree, Weighed]:
  """Combines gradients for rules that see none: one backward pass."""
  weighed = _weigh(step, observations, state)
  direction = with_weights(step, updates, weighed)
  if jax.tree.leaves(weighed.state):
    # The rule has not seen the gradient, but it must not remember a step that
    # will be skipped. A rule without state saves reading all P numbers.
    finite = all_finite(direction)
    # Sorted, because the order of a set of strings differs between processes.
    over = tuple(sorted({axis for axes in step.shards for axis in axes}))
    if over:  # If one shard is not finite, no device remembers the step.
      finite = lax.psum(~finite, over) == 0
    weighed = weighed._replace(good=weighed.good & finite)
  return direction, weighed


def by_gradients(
  step: _observing.Step,
  observations: list[base.Observation],
  updates: _observing.Updates,
  state: base.PyTree,
) -> tuple[base.PyTree, Weighed]:
  """Combines gradients for rules that see them: K backward passes.

  Given a pullback, those passes reach only the params that the rule looks at,
  since XLA removes what is not read. The other params take one more pass.
  """
  raw = _observing.read(step, updates)
  looked_at, beyond = step.parts, step.parts.beyond
  pulled: tuple[int, ...] = ()
  if _pullback.is_one(updates, step.params) and len(looked_at.parts) == 1:
    pulled = beyond
  if pulled:
    looked_at = looked_at.without_beyond
  rows = _observing.average(step, raw, looked_at.places)
  rows = _observing.without_absent(step, rows)
  observations = _observing.observe_gradients(step, observations, rows)
  weighed = _weigh(step, observations, state)
  if beyond:
    _check_one_each(step, weighed.weights)
  direction = _combine_parts(rows, _assign(looked_at, step, weighed))
  if pulled:
    direction |= _pull(step, updates, [(pulled, weighed.weights[0])])[0]
  return _reals.like_gradient(direction, raw[0]), weighed


def with_weights(
  step: _observing.Step, updates: _observing.Updates, weighed: Weighed
) -> base.PyTree:
  """Returns the direction, by one backward pass for each set of weights."""
  direction, raw = _pull(step, updates, _assign(step.parts, step, weighed))
  return _reals.like_gradient(direction, raw)


def with_given(
  step: _observing.Step, updates: _observing.Updates, weights: base.PyTree
) -> base.PyTree:
  """Returns the direction for weights from the caller, as of `every`."""
  if 'jacobian' in base.names_of(step.rule.needs):
    raise ValueError(
      'balance was given weights, and a weighting for the Jacobian, which may'
      ' have a weight for each number of the gradients; expected a weighting'
      ' for losses or the Gramian.'
    )
  parts, size = step.parts, len(step.means)
  each = [weights]
  if parts.names is not None:
    if not isinstance(weights, dict) or set(weights) != set(parts.names):
      raise ValueError(
        f'balance was given weights={weights!r} and the groups'
        f' {list(parts.names)}; expected a mapping with these keys.'
      )
    each = [weights[name] for name in parts.names[: len(parts.parts)]]
  each = [jnp.asarray(one) for one in each]
  for one in each:
    if jnp.shape(one) != (size,):
      raise ValueError(
        f'balance was given weights of shape {jnp.shape(one)} for {size}'
        ' objectives; expected one weight for each.'
      )
  seen = _observing.of_losses(step)
  good = all_finite(seen.losses)
  each = [
    _numerics.nan_unless(good, jnp.where(seen.has_rows, one, 0)) for one in each
  ]
  return with_weights(step, updates, Weighed(each, None, good))


def all_finite(tree: base.PyTree) -> jax.Array:
  """Whether all numbers are finite, [] bool."""
  leaves = jax.tree.leaves(tree)
  finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
  # "Not any infinite" rather than "all finite": XLA turns `all(stack)` into a
  # chain of one operation for each leaf, and copies it into the kernel of every
  # leaf that depends on it, so time grows with the square of their number.
  return ~jnp.any(~jnp.stack([jnp.array(True), *finite]))


def _weigh(
  step: _observing.Step,
  observations: list[base.Observation],
  state: base.PyTree,
) -> Weighed:
  """Asks the rule for the weights of each part; NaN if not all is finite."""

  def update(
    observation: base.Observation, state: base.PyTree
  ) -> tuple[base.PyTree, base.PyTree]:
    with _numerics.promotion_for((observation, state)):
      return step.rule.update(observation, state)

  if step.parts.grouped and 'jacobian' not in base.names_of(step.rule.needs):
    # Observations have one shape, whatever the shapes of the groups.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)
    weights, state = jax.vmap(update)(stacked, state)
    good = all_finite((stacked, weights))
    return Weighed(list(_numerics.nan_unless(good, weights)), state, good)
  # Gradients are not stacked, not even those of groups of one shape. Stacking
  # would copy all of them, and the rule's results, and would save no compile
  # time, since XLA compiles equal kernels once.
  states = state if step.parts.grouped else (state,)
  pairs = [update(*pair) for pair in zip(observations, states, strict=True)]
  each = [weights for weights, _ in pairs]
  state = tuple(new for _, new in pairs) if step.parts.grouped else pairs[0][1]
  seen = [observation._replace(jacobian=None) for observation in observations]
  good = all_finite((seen, each))
  each = jax.tree.map(lambda leaf: _numerics.nan_unless(good, leaf), each)
  return Weighed(each, state, good)


def _check_one_each(step: _observing.Step, weights: list[base.PyTree]) -> None:
  """Raises unless weights are [K]: leaves not looked at have no others."""
  if any(getattr(each, 'shape', ()) != (len(step.means),) for each in weights):
    raise ValueError(
      'balance was given weigh_on, and a weighting that treats each number of'
      ' the gradients on its own, so that it has no weights for parameters that'
      ' it does not look at. Expected one with a weight for each objective.'
    )


def _assign(
  parts: _parts.Parts, step: _observing.Step, weighed: Weighed
) -> Assigned:
  """Assigns weights to all leaves.

  Leaves that are not shared get weights of 1 (0 for a loss without rows).
  """
  assigned = [
    (part.combined, weights)
    for part, weights in zip(parts.parts, weighed.weights, strict=True)
  ]
  if parts.own:
    ones = _observing.of_losses(step).has_rows.astype(float)
    ones = _numerics.nan_unless(weighed.good, ones)
    assigned.append((parts.own, ones))
  return assigned


def _combine_parts(rows: list[base.PyTree], assigned: Assigned) -> base.PyTree:
  """Combines K gradients: pytrees, or mappings place -> leaf."""
  if assigned[0][0] is None:
    return _combine(rows, assigned[0][1])
  direction: dict[int, jax.Array] = {}
  for places, weights in assigned:
    part = _combine([_parts.numbered(row, places) for row in rows], weights)
    direction |= zip(sorted(places or ()), jax.tree.leaves(part), strict=True)
  return direction


def _combine(rows: list[base.PyTree], weights: base.PyTree) -> base.PyTree:
  """Combines K gradients, unless the rule returned a direction itself."""
  if isinstance(weights, base.Direction):
    return jax.tree.map(
      lambda leaf, like: leaf.astype(jnp.asarray(like).dtype),
      weights.updates,
      rows[0],
    )
  return jacobian.combine(rows, weights, range(len(rows)))


def _pull(
  step: _observing.Step, updates: _observing.Updates, assigned: Assigned
) -> tuple[base.PyTree, base.PyTree]:
  """Returns the direction and one raw gradient, by up to K backward passes."""
  # By linearity the shares go into the weights, so that only one gradient is
  # summed over devices.
  local = [
    (places, weights * jnp.asarray(step.shares, weights.dtype))
    for places, weights in assigned
  ]
  every = assigned[0][0]
  if every is not None:
    every = tuple(sorted(i for places, _ in assigned for i in places or ()))
  is_pullback = _pullback.is_one(updates, step.params)
  if is_pullback and len(local) <= len(step.shares):
    gradients = [_pull_once(step, updates, weights) for _, weights in local]
    raw = gradients[0]
    direction: base.PyTree = {}
    for (places, _), gradient in zip(local, gradients, strict=True):
      part = _parts.leaves_at(_reals.of_gradient(gradient), places)
      direction = part if places is None else direction | part
    _devices.check_not_summed(direction, step.given.losses, step.axis_name)
  else:
    gradients = _observing.read(step, updates)
    raw, rows = gradients[0], [_reals.of_gradient(each) for each in gradients]
    _devices.check_not_summed(rows, step.given.losses, step.axis_name)
    rows = [_parts.leaves_at(row, every) for row in rows]
    direction = _combine_parts(rows, local)
  shards = _observing.shards_at(step, every)
  return _devices.sum_of_gradients(direction, step.axis_name, shards), raw


def _pull_once(
  step: _observing.Step, pullback: Callable[[Any], Any], weights: jax.Array
) -> base.PyTree:
  """One backward pass, with all weights at once."""
  cotangents = [
    _pullback.vary_like(weight.astype(loss.dtype), loss)
    for weight, loss in zip(weights, step.given.losses, strict=True)
  ]
  cotangent = step.given.like_losses(cotangents)
  return _pullback.pull(pullback, _pullback.like_outputs(pullback, cotangent))
