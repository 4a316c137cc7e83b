"""Objectives that have no row in a batch, on a device or on all."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mimo_jax import _devices
from mimo_jax import _known
from mimo_jax import _numerics
from mimo_jax import _objectives
from mimo_jax import _observing
from mimo_jax import _pullback
from mimo_jax import base


def rows_of(
  present: base.PyTree, given: _objectives.Objectives
) -> list[jax.Array]:
  """How many rows each loss is the mean of, K numbers in row order.

  Args:
    present: numbers or booleans in the form of the losses.
    given: the losses beside them.
  """
  names = tuple(given.names) if given.keyed else None
  rows = _objectives.read(jax.tree.map(jnp.asarray, present), names).losses
  if len(rows) != len(given.losses):
    raise ValueError(
      f'present has {len(rows)} numbers for {len(given.losses)} losses;'
      ' expected how many rows each of them is the mean of, in their form.'
    )
  dtype = _numerics.wide(jnp.result_type(*given.losses))
  return [row.astype(dtype) for row in rows]


def over_devices(
  rows: Sequence[jax.Array],
  given: _objectives.Objectives,
  axis_name: _devices.AxisName,
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Means of the numbers of rows over devices, and factors of the losses.

  A loss times its factor, averaged over the devices, is the mean of all rows
  that there are, wherever they are.
  """
  means, _ = _devices.mean_of_losses(tuple(rows), axis_name)
  _, shares = _devices.mean_of_losses(given.losses, axis_name)
  factors = [
    # A loss that is the same on all devices was averaged by the user.
    jnp.ones_like(mean) if share == 1 else _numerics.divide(row, mean)
    for row, mean, share in zip(rows, means, shares, strict=True)
  ]
  return means, factors


def scale(
  updates: _observing.Updates,
  losses: base.PyTree,
  factors: Sequence[jax.Array],
  given: _objectives.Objectives,
) -> tuple[_observing.Updates, base.PyTree]:
  """Losses times factors, and the pullback of these."""
  if not callable(updates):
    raise ValueError(
      'balance was given present, axis_name and a Jacobian, in which rows of'
      ' all devices may be added up already. Expected the pullback that'
      ' jax.vjp(losses_fn, params) returns.'
    )
  in_form = given.like_losses(factors)
  # What has no row on this device may be no number: 0 · NaN would reach all.
  losses = jax.tree.map(
    lambda loss, factor: jnp.where(factor == 0, 0, loss), losses, in_form
  )

  def scaled(values: base.PyTree) -> base.PyTree:
    return jax.tree.map(
      lambda value, factor: (value * factor).astype(jnp.result_type(value)),
      values,
      in_form,
    )

  def pull(cotangent: Any) -> Any:
    cotangent = _pullback.like_outputs(updates, scaled(cotangent))
    return updates(jax.tree.map(_pullback.vary_like, cotangent, losses))

  if _known.is_brought(updates):
    known, of = updates, updates.gramian

    def gramian(averages: Any) -> jax.Array:
      return of(averages._replace(shares=scaled(averages.shares)))

    known = dataclasses.replace(known, pull=pull, gramian=gramian)
    return known, scaled(losses)
  return pull, scaled(losses)
