"""A function of many arrays, each of which waits for its turn."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    A function that returns the same, unless something on the way to it is not
    finite: then what comes later is NaN.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(like)
  jaxpr, treedef = closed.jaxpr, jax.tree.structure(shapes)
  steps = [_step(equation, jaxpr) for equation in jaxpr.eqns]

  def one_by_one(inputs: base.PyTree) -> Any:
    waiting = dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    made: set[core.Var] = set()  # of inputs
    last = jnp.zeros(())  # what was made

    def value_of(atom: Any) -> Any:
      if isinstance(atom, core.Literal):
        return atom.val
      if atom in values:
        return values[atom]
      leaf = waiting[atom]
      if _pullback.varying_axes(last) - _pullback.varying_axes(leaf):
        return leaf  # it would differ between devices
      if _numerics.explicit_sharding(last) is not None:
        return leaf  # no number of it is on all
      return leaf + (0 * jnp.ravel(last)[0]).astype(leaf.dtype)

    for step in steps:
      outputs = step.run(*map(value_of, step.reads))
      values |= zip(step.writes, outputs, strict=True)
      if not (made | waiting.keys()).isdisjoint(step.reads):
        made |= set(step.writes)
        if outputs[0].size and jnp.issubdtype(outputs[0].dtype, jnp.floating):
          last = outputs[0]
    return jax.tree.unflatten(treedef, map(value_of, jaxpr.outvars))

  return one_by_one


class _Step(NamedTuple):
  """One equation as a function."""

  reads: list[Any]  # variables
  writes: list[Any]
  run: Callable[..., list[Any]]


def _step(equation: Any, jaxpr: Any) -> _Step:
  variables = (a for a in equation.invars if not isinstance(a, core.Literal))
  reads, writes = list(dict.fromkeys(variables)), equation.outvars
  alone = jaxpr.replace(
    constvars=[], invars=reads, outvars=writes, eqns=[equation]
  )
  run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
  return _Step(reads, writes, run)
