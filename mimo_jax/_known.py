"""Gramians that a pullback knows: of `vjp_at_features` and the like."""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from mimo_jax import _devices
from mimo_jax import _observing
from mimo_jax import _reals
from mimo_jax import base
from mimo_jax.pullbacks import _base as pullbacks


def is_brought(updates: Any) -> TypeGuard[pullbacks.Pullback]:
  """Whether `updates` is a pullback that knows its Gramian."""
  return isinstance(updates, pullbacks.Pullback)


def observe(
  step: _observing.Step,
  observations: list[base.Observation],
  pullback: pullbacks.Pullback,
) -> list[base.Observation]:
  """Adds the pullback's Gramian to the observations, in row order."""
  _check(step, pullback)
  averages = pullbacks.Averages(
    losses=step.losses,
    shares=step.given.like_losses([jnp.float32(one) for one in step.shares]),
    gradient=_averaging(step),
    products=lambda rows: _observing.gramian_of(step, rows, step.shards),
    cross=lambda rows, others: pullbacks.cross(rows, others, step.shards),
    total=lambda value: _devices.sum_of_gradients(value, step.axis_name),
  )
  order = np.array(step.given.order)
  gramian = pullback.gramian(averages)[order[:, None], order]
  if step.rows is not None:
    has_rows = observations[0].has_rows
    gramian = jnp.where(has_rows[:, None] & has_rows[None, :], gramian, 0)
  return [observations[0]._replace(gramian=gramian)]


def _averaging(
  step: _observing.Step,
) -> Callable[[base.PyTree], base.PyTree]:
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


def _check(step: _observing.Step, pullback: pullbacks.Pullback) -> None:
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
