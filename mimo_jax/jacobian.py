"""Jacobians of several objectives: how to compute and combine them.

K is small and the number of parameters is huge. So each function here reads
every gradient once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mimo_jax import _gramians
from mimo_jax import _numerics
from mimo_jax import _pullback
from mimo_jax import base


def value_and_jacobian(
  losses_fn: Callable[..., Any], has_aux: bool = False
) -> Callable[..., tuple[Any, base.PyTree]]:
  """Makes a function that returns K losses and all their gradients.

  It takes one forward pass and K backward passes. Late fusion makes the
  Jacobian block-sparse: an audio loss never reaches the visual encoder. If
  `losses_fn` returns a mapping (or sequence) of scalars, the blocks that are
  zero by construction are not computed. A vector of losses gives the same
  numbers, but all blocks are computed.

  Args:
    losses_fn: `losses_fn(params, *args, **kwargs) -> losses`, a mapping
      name -> scalar, a sequence of scalars, or a vector [K]; differentiated
      with respect to `params`.
    has_aux: whether `losses_fn` returns `(losses, aux)`.

  Returns:
    A function with the arguments of `losses_fn` that returns
    `(losses, jacobian)`, or `((losses, aux), jacobian)`. `jacobian` has the
    form that `jax.jacrev(losses_fn)` gives: a mapping name -> gradients for a
    mapping, leaves [K, ...] for a vector.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> def losses_fn(params):
    ...   return {'fused': jnp.sum(params**2), 'audio': params[0]}
    >>> losses, jacobian = mimo_jax.value_and_jacobian(losses_fn)(
    ...   jnp.array([1.0, 3.0])
    ... )
    >>> jacobian['fused'].tolist(), jacobian['audio'].tolist()
    ([2.0, 6.0], [1.0, 0.0])
  """

  @functools.wraps(losses_fn)
  def value_and_jacobian_fn(
    params: base.PyTree, *args: Any, **kwargs: Any
  ) -> tuple[Any, base.PyTree]:
    losses, pullback, *aux = _pullback.vjp(
      lambda params: losses_fn(params, *args, **kwargs), params, has_aux=has_aux
    )
    jacobian = pull_jacobian(pullback, losses)
    return ((losses, *aux) if has_aux else losses), jacobian

  return value_and_jacobian_fn


def pull_jacobian(
  pullback: Callable[[Any], Any], losses: base.PyTree
) -> base.PyTree:
  """The gradients of all K losses, from their pullback.

  Use it if you have `losses, pullback = jax.vjp(losses_fn, params)`, and want
  to look at the gradients themselves. It takes K backward passes, as
  `value_and_jacobian` does.

  Args:
    pullback: what `jax.vjp` returned, with respect to params alone.
    losses: the losses that it returned beside the pullback: a mapping
      name -> scalar, a sequence of scalars, or a vector [K].

  Returns:
    The Jacobian, in the form that `jax.jacrev(losses_fn)` gives.

  Raises:
    ValueError: if the pullback is not one with respect to params alone.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> def losses_fn(params):
    ...   return {'fused': jnp.sum(params**2), 'audio': params[0]}
    >>> losses, pullback = jax.vjp(losses_fn, jnp.array([1.0, 3.0]))
    >>> jacobian = mimo_jax.pull_jacobian(pullback, losses)
    >>> float(jnp.vdot(jacobian['fused'], jacobian['audio']))  # no conflict
    2.0
  """
  gradients = _pullback.rows_of(pullback, losses)
  if hasattr(losses, 'ndim'):
    return jax.tree.map(lambda *rows: jnp.stack(rows), *gradients)
  return jax.tree.unflatten(jax.tree.structure(losses), gradients)


def rows(
  jacobian: base.PyTree, objectives: Sequence[Any] | None = None
) -> list[base.PyTree]:
  """The K gradients of a Jacobian, each a pytree like params.

  It has leaves [K, ...]; or, with `objectives`, the keys (or indices) in the
  wanted order, it is a mapping or sequence of gradients. XLA fuses the slices
  of leaves into what reads them.
  """
  if objectives is not None:
    try:
      gradients = [jacobian[name] for name in objectives]
    except (KeyError, IndexError) as error:
      raise ValueError(
        f'The Jacobian has no gradient of {error}; expected one of each of'
        f' objectives={list(objectives)}.'
      ) from error
    if not gradients:
      raise ValueError('objectives is empty; expected at least one.')
    shapes = [jax.tree.map(jnp.shape, gradient) for gradient in gradients]
    if any(each != shapes[0] for each in shapes):
      raise ValueError(
        f'The gradients of the Jacobian have the shapes {shapes}; expected the'
        ' same shapes in each, those of params.'
      )
    return gradients
  leaves = jax.tree.leaves(jacobian)
  if not leaves:
    raise ValueError(
      'The Jacobian has no leaves; expected leaves [K, ...]. nnx.Optimizer and'
      ' other wrappers that filter gradients drop a pullback. With them, keep'
      ' balance beside the optimizer: see mimo_jax.value_and_updates.'
    )
  sizes = sorted({jnp.shape(leaf)[:1] for leaf in leaves})
  if len(sizes) != 1 or not any(sizes[0]):
    raise ValueError(
      f'The leaves of the Jacobian begin with {sizes}; expected [K, ...] with'
      ' the same K ≥ 1 in each. A mapping name -> gradients needs `objectives`.'
    )
  return [
    jax.tree.map(lambda leaf, i=i: leaf[i], jacobian)
    for i in range(sizes[0][0])
  ]


def gramian(
  jacobian: base.PyTree, objectives: Sequence[Any] | None = None
) -> jax.Array:
  """Inner products of all pairs of gradients, J Jᵀ.

  Products are accumulated in float32 (float64 for float64 gradients), whatever
  the type of the gradients. For K up to 16 the relative error is near 1e-7 for
  any number of parameters. For larger K the Gramian is a matrix product, with
  an error of a few 1e-6. A complex number counts as the pair of its parts.

  Args:
    jacobian: leaves [K, ...]; or, with `objectives`, a mapping or sequence of
      gradients.
    objectives: keys (or indices) of the gradients, in row order.

  Returns:
    Array [K, K], symmetric to the bit.

  Raises:
    ValueError: if there are no leaves, they do not all begin with the same K,
      or gradients differ in shape.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> gradients = {
    ...   'audio': {'w': jnp.array([3.0, 4.0])},
    ...   'fused': {'w': jnp.array([1.0, 0.0])},
    ... }
    >>> mimo_jax.gramian(gradients, objectives=('fused', 'audio')).tolist()
    [[1.0, 3.0], [3.0, 25.0]]
  """
  return _gramians.of_parts([rows(jacobian, objectives)])[0]


def combine(
  jacobian: base.PyTree,
  weights: base.PyTree,
  objectives: Sequence[Any] | None = None,
) -> base.PyTree:
  """The combined gradient, weightsᵀ J.

  Args:
    jacobian: leaves [K, ...]; or, with `objectives`, a mapping or sequence of
      gradients.
    weights: array [K], or one weight for each entry: leaves [K, ...] like the
      stacked Jacobian.
    objectives: keys (or indices) of the gradients, in the order of `weights`.

  Returns:
    A pytree like params, in the gradients' types; the sum is taken in float32
    or wider.

  Raises:
    ValueError: if leaves and weights do not all have the same K, or gradients
      differ in shape.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> jacobian = {'w': jnp.array([[1.0, 0.0], [3.0, 4.0]])}
    >>> mimo_jax.combine(jacobian, jnp.array([1.0, 0.5]))['w'].tolist()
    [2.5, 2.0]
  """
  gradients = rows(jacobian, objectives)
  size = len(gradients)
  if hasattr(weights, 'ndim') and weights.ndim == 1:
    if weights.shape[0] != size:
      raise ValueError(
        f'weights has {weights.shape[0]} entries for {size} objectives.'
      )
    each = [
      jax.tree.map(lambda _, i=i: weights[i], gradients[0]) for i in range(size)
    ]
  else:
    each = rows(weights)

  def weighted_sum(*entries: jax.Array) -> jax.Array:
    leaves, leaf_weights = entries[:size], entries[size:]
    total = sum(
      _numerics.scaled(leaf, weight)
      for weight, leaf in zip(leaf_weights, leaves, strict=True)
    )
    return jnp.asarray(total, leaves[0].dtype)

  return jax.tree.map(weighted_sum, *gradients, *each)
