"""Makes what a rule sees of a step: losses, and Gramians if it needs them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mimo_jax import _devices
from mimo_jax import _gramians
from mimo_jax import _numerics
from mimo_jax import _objectives
from mimo_jax import _parts
from mimo_jax import _pullback
from mimo_jax import _reals
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax.pullbacks import _base as pullbacks

# A pullback, or a Jacobian in any form.
Updates: TypeAlias = base.PyTree | Callable[[Any], Any]
# Like `mimo_jax.gramian`.
Gramian: TypeAlias = Callable[[base.PyTree, Any], jax.Array]


class Step(NamedTuple):
  """What `balance` was made with, and the losses of one call of `update`."""

  rule: base.Weighting
  gramian: Gramian
  axis_name: _devices.AxisName
  read: Callable[[base.PyTree], _objectives.Objectives]  # losses in any form
  losses: base.PyTree  # as the user gave them
  given: _objectives.Objectives  # the same in row order
  means: list[jax.Array]  # K losses, averaged over the devices
  shares: list[float]  # of one device's loss in each mean
  parts: _parts.Parts
  shards: _devices.Shards  # axes that each leaf is sharded over, if any is
  params: base.PyTree | None
  rows: list[jax.Array] | None = None  # of each loss, if `present` was given


def read(step: Step, updates: Updates) -> list[base.PyTree]:
  """Returns the K gradients as JAX gave them, in row order."""
  given = step.given
  if updates is step.losses:
    raise ValueError(
      'balance was given the losses in place of the updates, too. Expected the'
      ' pullback of `losses, pullback = jax.vjp(losses_fn, params)`, or the'
      ' gradient of each objective.'
    )
  if _pullback.is_one(updates, step.params):
    gradients = _pullback.rows_of(updates, step.losses)
    return [gradients[i] for i in given.order]
  return _objectives.gradients_of(updates, given, step.params)


def average(
  step: Step, raw: list[base.PyTree], places: _parts.Places = None
) -> list[base.PyTree]:
  """Averages the leaves at these places of K raw gradients over the devices."""
  gradients = [
    _parts.leaves_at(_reals.of_gradient(each), places) for each in raw
  ]
  _devices.check_not_summed(gradients, step.given.losses, step.axis_name)
  gradients = [
    jax.tree.map(lambda leaf, share=share: leaf * share, gradient)
    for gradient, share in zip(gradients, step.shares, strict=True)
  ]
  shards = shards_at(step, places)
  return [
    _devices.sum_of_gradients(gradient, step.axis_name, shards)
    for gradient in gradients
  ]


def without_absent(
  step: Step, gradients: list[base.PyTree]
) -> list[base.PyTree]:
  """Replaces the gradients of losses that have no rows by 0."""
  if step.rows is None:
    return gradients
  return [
    jax.tree.map(lambda leaf, rows=rows: jnp.where(rows > 0, leaf, 0), gradient)
    for gradient, rows in zip(gradients, step.rows, strict=True)
  ]


def shards_at(step: Step, places: _parts.Places) -> _devices.Shards:
  """Returns the axes over which the leaves at these places are sharded."""
  if places is None or not step.shards:
    return step.shards
  return tuple(step.shards[i] for i in places)


def of_losses(step: Step) -> base.Observation:
  """Makes an observation of the losses; 0 for those that have no rows."""
  losses = _as_vector(step.means)
  if step.rows is None:
    return base.Observation(losses)
  rows = _as_vector(step.rows)
  return base.Observation(jnp.where(rows > 0, losses, 0), rows=rows)


def observe(step: Step, extra_args: dict[str, Any]) -> list[base.Observation]:
  """Makes each part's observation, without this batch's gradients."""
  observation = of_losses(step)
  if 'losses_after' in step.rule.extra_args:
    given = extra(extra_args, 'losses_after')
    try:
      after = step.read(given)
    except ValueError as error:
      raise ValueError(
        f'losses_after must have the form of the losses: {error}'
      ) from error
    if len(after.losses) != len(step.means):
      raise ValueError(
        f'losses_after has {len(after.losses)} losses, and losses has'
        f' {len(step.means)}; expected the same number.'
      )
    means, _ = _devices.mean_of_losses(after.losses, step.axis_name)
    observation = observation._replace(losses_after=_as_vector(means))
  if 'independent_updates' not in step.rule.extra_args:
    return [observation] * len(step.parts.parts)
  both = pair(extra_args, 'independent_updates')
  seen, size = step.parts.weighing, len(step.means)
  rows = [row for each in both for row in average(step, read(step, each), seen)]
  return [
    observation._replace(cross_gramian=products[:size, size:])
    for products in _inner_products(step, rows)
  ]


def observe_gradients(
  step: Step, observations: list[base.Observation], rows: list[base.PyTree]
) -> list[base.Observation]:
  """Adds the Gramian, and if needed the Jacobian, to the observations."""
  observations = [
    observation._replace(gramian=products)
    for observation, products in zip(
      observations, _inner_products(step, rows), strict=True
    )
  ]
  if 'jacobian' not in base.names_of(step.rule.needs):
    return observations
  if not jax.tree.leaves(rows[0]):
    raise ValueError(
      'This weighting looks at each number of the gradients, but there are'
      ' none: params have no leaf of real or complex numbers.'
    )
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
  return [
    observation._replace(jacobian=_parts.numbered(stacked, part.weighing))
    for observation, part in zip(observations, step.parts.parts, strict=True)
  ]


def observe_known(
  step: Step,
  observations: list[base.Observation],
  pullback: pullbacks.Pullback,
) -> list[base.Observation]:
  """Adds the pullback's Gramian to the observations, in row order."""
  _check_known(step, pullback)
  averages = pullbacks.Averages(
    losses=step.losses,
    shares=step.given.like_losses([jnp.float32(one) for one in step.shares]),
    gradient=_averaging(step),
    products=lambda rows: gramian_of(step, rows, step.shards),
    cross=lambda rows, others: pullbacks.cross(rows, others, step.shards),
    total=lambda value: _devices.sum_of_gradients(value, step.axis_name),
  )
  order = np.array(step.given.order)
  gramian = pullback.gramian(averages)[order[:, None], order]
  if step.rows is not None:
    has_rows = observations[0].has_rows
    gramian = jnp.where(has_rows[:, None] & has_rows[None, :], gramian, 0)
  return [observations[0]._replace(gramian=gramian)]


def _averaging(step: Step) -> Callable[[base.PyTree], base.PyTree]:
  """Makes a function from a raw gradient to its average over the devices.

  Leaves that the rule does not look at become 0.
  """
  weighing = step.parts.weighing

  def gradient_of(raw: base.PyTree) -> base.PyTree:
    gradient = _reals.of_gradient(raw)
    _devices.check_not_summed(gradient, step.given.losses, step.axis_name)
    if weighing is not None:
      leaves, treedef = jax.tree.flatten(gradient)
      leaves = [
        leaf if i in weighing else jnp.zeros_like(leaf)
        for i, leaf in enumerate(leaves)
      ]
      gradient = jax.tree.unflatten(treedef, leaves)
    return _devices.sum_of_gradients(gradient, step.axis_name, step.shards)

  return gradient_of


def _check_known(step: Step, pullback: pullbacks.Pullback) -> None:
  """Raises if the rule or the groups need more than the Gramian."""
  if 'jacobian' in base.names_of(step.rule.needs):
    raise ValueError(
      'This weighting looks at whole gradients, but the pullback brings their'
      ' Gramian only. Expected the pullback of jax.vjp, or a rule that needs'
      ' the losses or the Gramian.'
    )
  if len(step.parts.parts) > 1:
    raise ValueError(
      'balance was given groups, and a pullback that knows the Gramian of all'
      ' parameters together only. Expected the pullback of jax.vjp, or no'
      ' groups.'
    )
  if step.parts.beyond and not pullback.of_params:
    raise ValueError(
      'balance was given weigh_on, which chooses the parameters that the rule'
      ' looks at, and a pullback of vjp_at_features, with which it looks at the'
      ' features. Expected one of the two.'
    )


def _inner_products(step: Step, rows: list[base.PyTree]) -> list[jax.Array]:
  """Returns the Gramian of each part."""
  parts = [
    [_parts.part_of(row, part.weighing) for row in rows]
    for part in step.parts.parts
  ]
  if step.gramian is jacobian.gramian and not step.shards:
    return list(_gramians.of_parts(parts))
  return [
    gramian_of(step, gradients, shards_at(step, part.weighing))
    for gradients, part in zip(parts, step.parts.parts, strict=True)
  ]


def gramian_of(
  step: Step, rows: list[base.PyTree], shards: _devices.Shards
) -> jax.Array:
  """Returns the Gramian; that of shards is summed over their devices."""
  size = range(len(rows))
  if not shards or step.gramian is not jacobian.gramian:
    return step.gramian(rows, size)
  leaves = [jax.tree.leaves(row) for row in rows]
  summed = []
  for axes in sorted(set(shards)):
    part = [
      [leaf for leaf, own in zip(row, shards, strict=True) if own == axes]
      for row in leaves
    ]
    products = jacobian.gramian(part, size)
    summed.append(lax.psum(products, axes) if axes else products)
  return sum(summed[1:], start=summed[0])


def _as_vector(losses: list[jax.Array]) -> jax.Array:
  dtype = _numerics.wide(*losses)
  return jnp.stack([loss.astype(dtype) for loss in losses])


def pair(extra_args: dict[str, Any], name: str) -> Sequence[Any]:
  """Returns an extra argument that is a pair, for two independent batches."""
  both: Any = extra(extra_args, name)
  if not isinstance(both, tuple | list) or len(both) != 2:
    raise ValueError(
      f'{name} is a {type(both).__name__}; expected a pair, one entry for each'
      ' of two independent batches.'
    )
  return both


def extra(extra_args: dict[str, Any], name: str) -> Any:
  """Returns an extra argument that the rule needs; raises if it is missing."""
  if extra_args.get(name) is None:
    raise ValueError(
      f'This weighting needs the extra argument {name!r}, but balance was not'
      ' given it: optimizer.update(updates, opt_state, params, losses=losses,'
      f' {name}=...).'
    )
  return extra_args[name]
