"""Makes the inputs of a function wait until they are needed, on CPUs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from mimo_jax import _numerics
from mimo_jax import _pullback
from mimo_jax import base


def in_turn(
  function: Callable[[base.PyTree], Any], like: base.PyTree
) -> Callable[[base.PyTree], Any]:
  """Makes a function use each input only after all preceding operations.

  On CPUs, XLA begins with everything that can be computed at once. In a
  linearised network, that is the effect of each layer's params on its output.
  All of these would be kept until the changes of the inputs arrive.

  The function is linear, and `like` an argument of it, for shapes and types.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(like)
  jaxpr, treedef = closed.jaxpr, jax.tree.structure(shapes)

  def one_by_one(inputs: base.PyTree) -> Any:
    waiting = dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    made = set(jaxpr.invars)  # inputs, and values that depend on them
    last = jnp.zeros(())  # the latest of these values

    def value_of(atom: Any) -> Any:
      if isinstance(atom, core.Literal):
        return atom.val
      return values[atom] if atom in values else _after(last, waiting[atom])

    for equation in jaxpr.eqns:
      atoms = (a for a in equation.invars if not isinstance(a, core.Literal))
      reads, writes = list(dict.fromkeys(atoms)), equation.outvars
      alone = jaxpr.replace(
        constvars=[], invars=reads, outvars=writes, eqns=[equation]
      )
      run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
      outputs = run(*map(value_of, reads))
      values |= zip(writes, outputs, strict=True)
      if not made.isdisjoint(reads):
        made |= set(writes)
        last = next(filter(_may_be_waited_for, outputs), last)
    return jax.tree.unflatten(treedef, map(value_of, jaxpr.outvars))

  return one_by_one


def _may_be_waited_for(value: jax.Array) -> bool:
  return value.size > 0 and jnp.issubdtype(value.dtype, jnp.inexact)


def _after(last: jax.Array, leaf: jax.Array) -> jax.Array:
  """Makes a leaf depend on `last`, where that is possible."""
  if not jnp.issubdtype(leaf.dtype, jnp.inexact):
    return leaf  # It has no gradient.
  if _pullback.varying_axes(last) - _pullback.varying_axes(leaf):
    return leaf  # It would become different on different devices.
  if _numerics.explicit_sharding(last) is not None:
    return leaf  # No number of `last` is on all devices.
  # Add zero times a number that XLA does not know. Optimisation barriers would
  # not work: XLA removes them before it orders a program on a CPU.
  return leaf + 0 * jnp.isnan(jnp.ravel(last)[0]).astype(leaf.dtype)
