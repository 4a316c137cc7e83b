"""A function of many arrays, each of which waits for its turn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

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
    A function that returns the same, unless something on the way to it is not
    finite: then what comes later is NaN.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(like)
  jaxpr, treedef = closed.jaxpr, jax.tree.structure(shapes)

  def one_by_one(inputs: base.PyTree) -> Any:
    waiting = dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    made: set[core.Var] = set()  # of inputs
    zero = jnp.zeros(())  # of what was made last

    def value_of(atom: Any) -> Any:
      if atom in values:
        return values[atom]
      if isinstance(atom, core.Literal):
        return atom.val
      leaf = waiting[atom]
      if _pullback.varying_axes(zero) - _pullback.varying_axes(leaf):
        return leaf  # it would differ between devices
      return leaf + zero.astype(leaf.dtype)

    for equation in jaxpr.eqns:
      reads = {
        atom: value_of(atom)
        for atom in equation.invars
        if not isinstance(atom, core.Literal)
      }
      outputs = _run(equation, jaxpr, reads)
      values |= zip(equation.outvars, outputs, strict=True)
      if reads.keys() & (made | waiting.keys()):
        made |= set(equation.outvars)
        if outputs[0].size and jnp.issubdtype(outputs[0].dtype, jnp.floating):
          zero = 0 * jnp.ravel(outputs[0])[0]
    return jax.tree.unflatten(treedef, map(value_of, jaxpr.outvars))

  return one_by_one


def _run(equation: Any, jaxpr: Any, values: dict[Any, Any]) -> list[Any]:
  """The outputs of one equation."""
  alone = jaxpr.replace(
    constvars=[],
    invars=list(values),
    outvars=equation.outvars,
    eqns=[equation],
  )
  outputs: list[Any] = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(
    *values.values()
  )
  return outputs
