"""A pullback that knows its Gramian, and loops over the rows of one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _devices
from mimo_jax import _numerics
from mimo_jax import base


class Averages(NamedTuple):
  """How `balance` averages over devices; with one, nothing changes.

  `shares` has the form of the losses. The functions take numbers of this
  device.
  """

  losses: base.PyTree  # of this device, as the user gave them
  shares: base.PyTree  # of each loss in its average over the devices
  # Raw gradient of losses times their shares -> average, as real numbers.
  gradient: Callable[[base.PyTree], base.PyTree]
  products: Callable[[list[base.PyTree]], jax.Array]  # of averaged gradients
  # Products of all rows with all others, of averaged gradients, leaves [n, P].
  cross: Callable[[list[jax.Array], list[jax.Array]], jax.Array]
  # Summands of this device -> their sum over all.
  total: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Pullback:
  """A pullback with the Gramian that a rule is to weigh by.

  `balance` takes it like that of `jax.vjp`. A rule that needs the Gramian gets
  this one, and the combined gradient is one backward pass.

  Attributes:
    pull: from a cotangent, in the form of the losses, to `(gradient,)`.
    gramian: from `Averages` to the Gramian `[K, K]`, in the order of the
      losses' leaves or entries.
    of_params: whether it is the Gramian of gradients of params.
  """

  pull: Callable[[Any], tuple[base.PyTree]]
  gramian: Callable[[Averages], jax.Array]
  of_params: bool = True

  def __call__(self, cotangent: Any) -> tuple[base.PyTree]:
    """The gradient of the losses, weighted by the cotangent."""
    return self.pull(cotangent)


def for_each(
  function: Callable[[jax.Array], Any],
  parts: Sequence[jax.Array],
) -> list[Any]:
  """`[function(part) for part in parts]`, one after the other.

  In one loop where that is as fast; on a CPU, where XLA runs convolutions
  inside loops 5 to 30 times slower, written out. The parts have one shape and
  type, but the last may be shorter.
  """
  whole = [part for part in parts if part.shape == parts[0].shape]
  done = []
  if jax.default_backend() != 'cpu' and len(whole) > 1:
    stacked = lax.map(function, jnp.stack(whole))
    done = [
      jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
      for i in range(len(whole))
    ]
  for part in parts[len(done) :]:
    if done:
      # Each part waits for the previous one. Else XLA would compute many at the
      # same time, and keep their memory.
      leaves = jax.tree.leaves(done[-1])
      ends = [jnp.sum(leaf).astype(part.dtype) for leaf in leaves]
      part = part + 0 * jnp.stack(ends).sum()
    done.append(function(part))
  return done


def cross(
  rows: Sequence[jax.Array],
  others: Sequence[jax.Array],
  shards: _devices.Shards,
) -> jax.Array:
  """Inner products, [n, m], of rows and others, leaves [n, P] and [m, P]."""
  dtype = _numerics.wide(*rows, *others)
  total = jnp.zeros((), dtype)
  for i, (row, other) in enumerate(zip(rows, others, strict=True)):
    part = jnp.matmul(
      _numerics.at_least_float32(row),
      _numerics.at_least_float32(other).T,
      precision=lax.Precision.HIGHEST,
    )
    axes = shards[i] if shards else ()
    part = (lax.psum(part, axes) if axes else part).astype(dtype)
    total = total + part
  return total


def like(losses: base.PyTree, vector: jax.Array) -> base.PyTree:
  """Puts K numbers into the form and the types of the losses."""
  leaves, treedef = jax.tree.flatten(losses)
  parts, start = [], 0
  for leaf in leaves:
    part = vector[start : start + jnp.size(leaf)]
    parts.append(part.reshape(jnp.shape(leaf)).astype(jnp.result_type(leaf)))
    start += jnp.size(leaf)
  return jax.tree.unflatten(treedef, parts)


def flat(values: base.PyTree) -> jax.Array:
  """Flattens values in the form of the losses to `[K]`, at least float32."""
  leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.leaves(values)]
  dtype = _numerics.wide(*leaves)
  return jnp.concatenate([leaf.astype(dtype) for leaf in leaves])
