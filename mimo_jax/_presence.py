"""Objectives without rows in a batch, on one device or on all."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mimo_jax import _devices
from mimo_jax import _numerics
from mimo_jax import _objectives
from mimo_jax import _observing
from mimo_jax import _pullback
from mimo_jax import base
from mimo_jax.pullbacks import _base as pullbacks


def rows_of(
  present: base.PyTree, given: _objectives.Objectives
) -> list[jax.Array]:
  """Reads how many rows each loss is the mean of, K numbers in row order."""
  names = tuple(given.names) if given.keyed else None
  try:
    rows = _objectives.read(jax.tree.map(jnp.asarray, present), names).losses
  except ValueError as error:
    raise ValueError(
      'present must have the form of the losses, with a number of rows each:'
      f' {error} mimo_jax.nn.present_rows counts the rows of masks.'
    ) from error
  if len(rows) != len(given.losses):
    raise ValueError(
      f'present has {len(rows)} numbers for {len(given.losses)} losses;'
      ' expected the form of the losses, with the number of rows that each is'
      ' the mean of.'
    )
  dtype = _numerics.wide(*given.losses)
  return [row.astype(dtype) for row in rows]


def over_devices(
  rows: Sequence[jax.Array],
  given: _objectives.Objectives,
  axis_name: _devices.AxisName,
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Averages numbers of rows over devices, and makes factors for the losses.

  A loss times its factor, averaged over the devices, is the mean over the rows
  of all devices.
  """
  means, _ = _devices.mean_of_losses(tuple(rows), axis_name)
  _, shares = _devices.mean_of_losses(given.losses, axis_name)
  factors = [
    # A loss that is the same on all devices is averaged already.
    jnp.ones_like(mean) if share == 1 else _numerics.divide(row, mean)
    for row, mean, share in zip(rows, means, shares, strict=True)
  ]
  return means, factors


def scale(
  factors: Sequence[jax.Array], given: _objectives.Objectives
) -> base.PyTree:
  """Multiplies losses by factors, in the form of the losses."""
  # A loss without rows on this device may be NaN, and so would be 0 · NaN.
  scaled = [
    jnp.where(factor == 0, 0, loss * factor).astype(loss.dtype)
    for loss, factor in zip(given.losses, factors, strict=True)
  ]
  return given.like_losses(scaled)


def scale_pullback(
  updates: _observing.Updates,
  losses: base.PyTree,
  factors: Sequence[jax.Array],
  given: _objectives.Objectives,
  params: base.PyTree | None,
) -> _observing.Updates:
  """Returns the pullback of the losses multiplied by factors."""
  if not _pullback.is_one(updates, params):
    raise ValueError(
      'balance was given present, axis_name and a Jacobian, in which the rows'
      ' of all devices may already be added up. Expected the pullback that'
      ' jax.vjp(losses_fn, params) returns.'
    )
  in_form = given.like_losses(factors)

  def pull(cotangent: Any) -> Any:
    cotangent = _times(cotangent, in_form)
    cotangent = _pullback.like_outputs(updates, cotangent)
    return updates(jax.tree.map(_pullback.vary_like, cotangent, losses))

  if not isinstance(updates, pullbacks.Pullback):
    return pull

  def gramian(averages: pullbacks.Averages) -> jax.Array:
    shares = _times(averages.shares, in_form)
    return updates.gramian(averages._replace(shares=shares))

  return dataclasses.replace(updates, pull=pull, gramian=gramian)


def of_other_batches(
  extra_args: dict[str, Any],
  needed: Sequence[str],
  read: Callable[[base.PyTree], _objectives.Objectives],
  losses: base.PyTree,
  params: base.PyTree | None,
  axis_name: _devices.AxisName,
) -> dict[str, Any]:
  """Scales extra arguments of other batches whose numbers of rows are given.

  Only those that the rule needs. The pullbacks are of losses like `losses`.
  """
  scaled = dict(extra_args)

  def is_given(name: str, of: str) -> bool:
    return of in needed and extra_args.get(name) is not None

  if is_given('present_after', 'losses_after'):
    after = read(_observing.extra(extra_args, 'losses_after'))
    rows = rows_of(extra_args['present_after'], after)
    factors = over_devices(rows, after, axis_name)[1]
    scaled['losses_after'] = scale(factors, after)
  if is_given('independent_present', 'independent_updates'):
    given = read(losses)
    pair = []
    for updates, present in zip(
      _observing.pair(extra_args, 'independent_updates'),
      _observing.pair(extra_args, 'independent_present'),
      strict=True,
    ):
      factors = over_devices(rows_of(present, given), given, axis_name)[1]
      pair.append(scale_pullback(updates, losses, factors, given, params))
    scaled['independent_updates'] = tuple(pair)
  return scaled


def _times(values: base.PyTree, factors: base.PyTree) -> base.PyTree:
  return jax.tree.map(
    lambda value, factor: (value * factor).astype(jnp.result_type(value)),
    values,
    factors,
  )
