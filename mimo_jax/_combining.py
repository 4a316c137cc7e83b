"""From what a rule saw to its weights, and from those to a direction."""

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

# Which leaves take which weights.
Assigned: TypeAlias = Sequence[tuple[_parts.Places, base.PyTree]]


class Weighed(NamedTuple):
  """What the rule made of its observations."""

  weights: list[base.PyTree]  # of each part
  state: base.PyTree  # of the rule
  good: jax.Array  # [] bool, whether all that was seen is finite


def by_losses(
  step: _observing.Step,
  observations: list[base.Observation],
  updates: _observing.Updates,
  state: base.PyTree,
) -> tuple[base.PyTree, Weighed]:
  """The plan for rules that see no gradients: one backward pass."""
  weighed = _weigh(step, observations, state)
  direction = with_weights(step, updates, weighed)
  if jax.tree.leaves(weighed.state):
    # The rule has not seen the gradient, but a step that will be skipped must
    # not be remembered. Without state there is nothing to read P numbers for.
    finite = all_finite(direction)
    # In one order in all processes, which a set of strings has not.
    over = tuple(sorted({axis for axes in step.shards for axis in axes}))
    if over:  # no shard is remembered of a step that another has to skip
      finite = lax.psum(~finite, over) == 0
    weighed = weighed._replace(good=weighed.good & finite)
  return direction, weighed


def by_gradients(
  step: _observing.Step,
  observations: list[base.Observation],
  updates: _observing.Updates,
  state: base.PyTree,
) -> tuple[base.PyTree, Weighed]:
  """The plan for the others: K backward passes.

  Those go only as far as the params that the rule looks at, if a pullback is
  given (XLA leaves out what nobody reads); the others take one pass more.
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
  """The direction by as many backward passes as there are different weights."""
  direction, raw = _pull(step, updates, _assign(step.parts, step, weighed))
  return _reals.like_gradient(direction, raw)


def with_given(
  step: _observing.Step, updates: _observing.Updates, weights: base.PyTree
) -> base.PyTree:
  """The direction with weights that the caller has, a rule's of before."""
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
  # Asked the other way round: of `all(stack)` XLA makes a chain of as many
  # operations as there are leaves, and puts it into the kernel of each leaf
  # that it decides about, which takes time in the square of their number.
  return ~jnp.any(~jnp.stack([jnp.array(True), *finite]))


def _weigh(
  step: _observing.Step,
  observations: list[base.Observation],
  state: base.PyTree,
) -> Weighed:
  """Lets the rule decide, in each part; NaN if anything is not finite."""

  def update(
    observation: base.Observation, state: base.PyTree
  ) -> tuple[base.PyTree, base.PyTree]:
    with _numerics.promotion_for((observation, state)):
      return step.rule.update(observation, state)

  if step.parts.grouped and 'jacobian' not in base.names_of(step.rule.needs):
    # All that it sees is of one shape, whatever the groups' shapes are.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)
    weights, state = jax.vmap(update)(stacked, state)
    good = all_finite((stacked, weights))
    return Weighed(list(_numerics.nan_unless(good, weights)), state, good)
  # Gradients are not stacked, not even of groups of one shape: that would be a
  # copy of all, and of what the rule makes of them, which takes time and memory
  # and saves no compiling: XLA compiles equal kernels once.
  states = state if step.parts.grouped else (state,)
  pairs = [update(*pair) for pair in zip(observations, states, strict=True)]
  each = [weights for weights, _ in pairs]
  state = tuple(new for _, new in pairs) if step.parts.grouped else pairs[0][1]
  seen = [observation._replace(jacobian=None) for observation in observations]
  good = all_finite((seen, each))
  each = jax.tree.map(lambda leaf: _numerics.nan_unless(good, leaf), each)
  return Weighed(each, state, good)


def _check_one_each(step: _observing.Step, weights: list[base.PyTree]) -> None:
  """Refuses weights that are for the leaves that were looked at alone."""
  if any(getattr(each, 'shape', ()) != (len(step.means),) for each in weights):
    raise ValueError(
      'balance was given weigh_on, and a weighting that treats each number of'
      ' the gradients on its own, so that it has no weights for parameters that'
      ' it does not look at. Expected one with a weight for each objective.'
    )


def _assign(
  parts: _parts.Parts, step: _observing.Step, weighed: Weighed
) -> Assigned:
  """The weights of all leaves: of those that no rule is asked about, 1.

  And 0 of a loss without rows.
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
  """The direction of K gradients: a pytree, or a mapping place -> leaf."""
  if assigned[0][0] is None:
    return _combine(rows, assigned[0][1])
  direction: dict[int, jax.Array] = {}
  for places, weights in assigned:
    part = _combine([_parts.numbered(row, places) for row in rows], weights)
    direction |= zip(sorted(places or ()), jax.tree.leaves(part), strict=True)
  return direction


def _combine(rows: list[base.PyTree], weights: base.PyTree) -> base.PyTree:
  """The combined gradient, or the direction that the rule has made itself."""
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
  """The direction, and a gradient as JAX gave it, by at most K passes."""
  # By linearity the shares may go to the weights: one gradient to sum.
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
