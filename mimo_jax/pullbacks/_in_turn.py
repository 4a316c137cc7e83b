"""A function of many arrays, each of which waits for its turn."""

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
  """The same function, which uses no input before what precedes it is there.

  On CPUs, XLA begins with everything that could be computed at once. Of a
  linearised network that is, for every layer, what the change of its params
  does to its output; all are kept until the change of its inputs arrives.

  Args:
    function: linear, from a pytree of arrays to another.
    like: what it is called with, for shapes and types.

  Returns:
    A function that returns the same.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(like)
  jaxpr, treedef = closed.jaxpr, jax.tree.structure(shapes)

  def one_by_one(inputs: base.PyTree) -> Any:
    waiting = dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    made = set(jaxpr.invars)  # and what is made of them
    last = jnp.zeros(())  # of what was made

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
  """The leaf, once `last` is there, where all that holds it has that."""
  if not jnp.issubdtype(leaf.dtype, jnp.inexact):
    return leaf  # without a gradient
  if _pullback.varying_axes(last) - _pullback.varying_axes(leaf):
    return leaf  # it would differ between devices
  if _numerics.explicit_sharding(last) is not None:
    return leaf  # no number of it is on all
  # Zero times a number that XLA does not know; barriers are gone before it
  # orders a CPU's program.
  return leaf + 0 * jnp.isnan(jnp.ravel(last)[0]).astype(leaf.dtype)
