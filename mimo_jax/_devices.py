"""Averages over the devices of `pmap` and `shard_map`.

Under `jax.shard_map` with replication checking, JAX knows over which mesh axes
a value varies, and the pullback of varying losses with respect to replicated
params already sums over the devices. Under `jax.pmap`, `jax.vmap` and
`shard_map(check_vma=False)` nothing is known and every gradient is local.

One procedure covers both. A loss that varies (or about which nothing is known)
has the share 1/N in the average over N devices, so its gradient is multiplied
by that share. If the result still varies, it is one device's summand, and is
summed.
"""

import math
from typing import Any

import jax
import numpy as np
from jax import lax

from mimo_jax import _pullback
from mimo_jax import base

AxisName = str | tuple[str, ...] | None
Shards = tuple[tuple[str, ...], ...]


def mean_of_losses(
  losses: tuple[jax.Array, ...], axis_name: AxisName
) -> tuple[list[jax.Array], list[float]]:
  """The averages of K losses, and the share of one device's loss in each."""
  axes = [_varying(loss, axis_name) for loss in losses]
  means = [
    lax.pmean(loss, over) if over else loss
    for loss, over in zip(losses, axes, strict=True)
  ]
  left = [_pullback.varying_axes(mean) for mean in means]
  if len(set(left)) > 1:
    raise ValueError(_message(frozenset().union(*left), axis_name))
  shares = [
    1 / math.prod(lax.axis_size(axis) for axis in over) for over in axes
  ]
  return means, shares


def check_not_summed(
  gradients: base.PyTree, losses: tuple[jax.Array, ...], axis_name: AxisName
) -> None:
  """Raises if gradients were summed over an axis missing from `axis_name`.

  The losses, before they were averaged, differ over that axis and the gradient
  does not. Without this error it would silently be N times the gradient of the
  average.
  """
  differing = frozenset().union(*map(_pullback.varying_axes, losses))
  for leaf in jax.tree.leaves(gradients):
    summed = differing - _pullback.varying_axes(leaf) - set(_names(axis_name))
    if summed:
      raise ValueError(_message(summed, axis_name))


def shards_of(
  params: base.PyTree, specs: base.PyTree, axis_name: AxisName
) -> Shards:
  """The axes over which each leaf of params is sharded; () if none is.

  `specs` are their `PartitionSpec`s, a prefix of params. None goes by their
  types: params that vary between devices are shards.
  """
  names = _names(axis_name)
  if specs is None:
    over = [_pullback.varying_axes(leaf) for leaf in jax.tree.leaves(params)]
  else:

    def is_spec(leaf: Any) -> bool:
      return isinstance(leaf, jax.P)

    each = jax.tree.broadcast(specs, params, is_leaf=is_spec)
    over = [
      frozenset(np.hstack([part for part in spec if part] or [()]).tolist())
      for spec in jax.tree.leaves(each, is_leaf=is_spec)
    ]
  shards = tuple(tuple(a for a in names if a in axes) for axes in over)
  return shards if any(shards) else ()


def check_whole(
  params: base.PyTree, losses: tuple[jax.Array, ...], axis_name: AxisName
) -> None:
  """Raises if params are sharded over an axis missing from `axis_name`.

  The losses are the same over that axis, but each device would weigh by the
  gradients of its own shard.
  """
  sharded = (
    frozenset().union(*map(_pullback.varying_axes, jax.tree.leaves(params)))
    - frozenset().union(*map(_pullback.varying_axes, losses))
    - set(_names(axis_name))
  )
  if sharded:
    axes = tuple(sorted(sharded | set(_names(axis_name))))
    raise ValueError(
      f'params are sharded over the mesh axes {sorted(sharded)}, but balance'
      f' was given axis_name={axis_name!r}, with a rule that looks at whole'
      f' gradients. Use axis_name={axes!r}.'
    )


def sum_of_gradients(
  gradients: base.PyTree, axis_name: AxisName, shards: Shards = ()
) -> base.PyTree:
  """Sums over the devices what is not summed yet.

  Gradients that were multiplied by the shares of their losses become those of
  the averaged losses. The gradient of a shard is not summed: that happened
  where the shards were gathered, and each device has a different shard.
  """
  leaves, treedef = jax.tree.flatten(gradients)
  summed = []
  for leaf, own in zip(leaves, shards or [()] * len(leaves), strict=True):
    axes = tuple(a for a in _varying(leaf, axis_name) if a not in own)
    summed.append(lax.psum(leaf, axes) if axes else leaf)
  return jax.tree.unflatten(treedef, summed)


def _names(axis_name: AxisName) -> tuple[str, ...]:
  return (axis_name,) if isinstance(axis_name, str) else axis_name or ()


def _varying(value: jax.Array, axis_name: AxisName) -> tuple[str, ...]:
  """Returns the axes of `axis_name` over which `value` varies, or may vary."""
  known = _pullback.varying_axes(value)

  def is_checked(axis: str) -> bool:
    return axis in _pullback.varying_axes(lax.axis_index(axis))

  return tuple(
    axis for axis in _names(axis_name) if axis in known or not is_checked(axis)
  )


def _message(axes: frozenset[str], axis_name: AxisName) -> str:
  return (
    f'The losses differ between the devices of the mesh axes {sorted(axes)},'
    ' over which jax.shard_map sums the gradients of replicated params, but'
    f' balance was given axis_name={axis_name!r}. To average over them, use'
    f' axis_name={tuple(sorted(axes | set(_names(axis_name))))!r}.'
  )
