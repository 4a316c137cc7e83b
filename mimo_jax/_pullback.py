"""Gets gradients from pullbacks, also where values differ between devices."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from mimo_jax import base


def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool) -> Any:
  """`jax.vjp`, typed so that `has_aux` need not be known to a type checker."""
  of_either: Any = jax.vjp
  return of_either(function, *primals, has_aux=has_aux)


def is_one(updates: Any, params: base.PyTree | None) -> bool:
  """Whether it is a pullback: a function that is no module like params."""
  structure: Any = jax.tree.structure  # can be compared
  is_like_params = structure(updates) == structure(params)
  return callable(updates) and (
    jax.tree_util.all_leaves([updates]) or not is_like_params
  )


def rows_of(
  pullback: Callable[[Any], Any], losses: base.PyTree
) -> list[base.PyTree]:
  """Returns the gradient of each loss, by the order of leaves or entries."""
  check_types(pullback, losses)
  losses = like_outputs(pullback, losses)
  if hasattr(losses, 'ndim'):
    basis = jnp.eye(losses.size, dtype=losses.dtype)
    return [
      pull(pullback, vary_like(row.reshape(losses.shape), losses))
      for row in basis
    ]
  leaves, treedef = jax.tree.flatten(losses)

  def row(index: int, zero: Callable[[jax.Array], Any]) -> base.PyTree:
    cotangents = [
      vary_like(jnp.ones_like(leaf), leaf) if i == index else zero(leaf)
      for i, leaf in enumerate(leaves)
    ]
    return pull(pullback, jax.tree.unflatten(treedef, cotangents))

  rows = range(len(leaves))
  if isinstance(pullback, _pullback_type()):
    # JAX does not pull back cotangents that it knows to be zero. It does pull
    # back arrays of zeros, and XLA removes only part of that work (2.3 times
    # the joint step's operations for three encoders, 1.7 with symbolic zeros).
    try:
      return [row(i, _symbolic_zero) for i in rows]
    except ValueError:
      # JAX 0.10.2 cannot pull a symbolic zero back through the outputs of a
      # `lax.scan`, as in recurrent encoders: it takes it for that of a single
      # step. Any other error occurs again below.
      pass
  return [row(i, _zero) for i in rows]


def like_outputs(
  pullback: Callable[[Any], Any], values: base.PyTree
) -> base.PyTree:
  """Casts values, one for each loss, to the types that the pullback takes.

  With loss scaling in float16, the pullback is that of the scaled losses, in
  float16, while the losses given beside it are unscaled, in float32.
  """
  leaves, treedef = jax.tree.flatten(values)
  cast = [
    jnp.asarray(leaf).astype(dtype)
    for leaf, dtype in zip(leaves, _types(pullback, leaves), strict=True)
  ]
  return jax.tree.unflatten(treedef, cast)


def check_types(pullback: Callable[[Any], Any], losses: base.PyTree) -> None:
  """Raises if a loss is not a float, so that it has no real gradient."""
  types = _types(pullback, jax.tree.leaves(losses))
  if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in types):
    raise ValueError(
      f'The losses have the types {[str(dtype) for dtype in types]}; expected'
      ' floats: integers have no gradient, and complex numbers no order. Return'
      ' what is no loss beside the losses: jax.vjp(losses_fn, params,'
      ' has_aux=True).'
    )


def _types(pullback: Callable[[Any], Any], leaves: list[Any]) -> list[Any]:
  """Returns the types of the losses that a pullback was made of."""
  if isinstance(pullback, _pullback_type()):
    known: Any = pullback
    # These are internals of JAX, which may change; then the losses' types are
    # used.
    with contextlib.suppress(AttributeError, IndexError, TypeError):
      types = [output.dtype for output in known.fun.args[-1]]
      if len(types) == len(leaves):  # else the pullback will raise
        return types
  return [jnp.result_type(leaf) for leaf in leaves]


def without_derivative(pullback: Any) -> frozenset[int]:
  """Returns the outputs that JAX knows to have no derivative, if it tells."""
  if not isinstance(pullback, _pullback_type()) or not _tells_derivatives():
    return frozenset()
  return frozenset(i for i, known in enumerate(_known(pullback)) if known)


def _known(pullback: Any) -> list[bool]:
  return [bool(known) for known in pullback.fun.args[1]]


@functools.cache
def _tells_derivatives() -> bool:
  """Whether this version of JAX keeps what `_known` reads, in a known case."""

  def found() -> Any:
    pullback = jax.vjp(lambda x: (x, lax.stop_gradient(x)), 1.0)[1]
    return jnp.zeros([int(known) for known in _known(pullback)])

  try:
    return jax.eval_shape(found).shape == (0, 1)
  except (AttributeError, IndexError, TypeError):
    return False


def _symbolic_zero(leaf: jax.Array) -> Any:
  return ad.Zero(jax.typeof(leaf).to_ct_aval())


def _zero(leaf: jax.Array) -> jax.Array:
  return vary_like(jnp.zeros_like(leaf), leaf)


def pull(pullback: Callable[[Any], Any], cotangent: base.PyTree) -> base.PyTree:
  """Calls a pullback with respect to params alone; returns its gradient."""
  try:
    gradients = pullback(cotangent)
  except ValueError as error:
    if 'tree structure' not in str(error):
      raise
    raise ValueError(
      'The pullback is not that of these losses. Expected'
      ' `losses, pullback = jax.vjp(losses_fn, params)`, where losses_fn'
      ' returns the losses alone, in the form in which update is given them.'
      ' If it returns more, pass `has_aux=True` to jax.vjp. JAX says:'
      f' {error}'
    ) from error
  if not isinstance(gradients, tuple) or len(gradients) != 1:
    given = (
      f'{len(gradients)} of them'
      if isinstance(gradients, tuple)
      else f'a {type(gradients).__name__}'
    )
    raise ValueError(
      'The pullback must return a tuple of one gradient, that of params, like'
      f' that of `jax.vjp(losses_fn, params)`; it returned {given}. Close over'
      ' what is not trained: jax.vjp(lambda p: losses_fn(p, batch), params).'
      ' Or let params be the first of several arguments, and give'
      ' `lambda ct: pullback(ct)[:1]`.'
    )
  return gradients[0]


@functools.cache
def _pullback_type() -> type:
  """Returns the type of JAX's own pullbacks, without computing anything."""
  return type(jax.eval_shape(lambda: jax.vjp(lambda x: x, 1.0)[1]))


def varying_axes(value: Any) -> frozenset[str]:
  """Returns the mesh axes over which `jax.shard_map` knows `value` to vary."""
  return jax.typeof(value).manual_axis_type.varying


def vary_like(value: jax.Array, like: jax.Array) -> jax.Array:
  """Marks `value` as varying over all mesh axes over which `like` varies."""
  axes = tuple(varying_axes(like) - varying_axes(value))
  return lax.pcast(value, axes, to='varying') if axes else value
