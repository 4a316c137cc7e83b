"""The exact Gramian, from a first pass that keeps one gradient at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import _pullback
from mimo_jax import _reals
from mimo_jax import base
from mimo_jax.pullbacks import _base
from mimo_jax.pullbacks import _in_turn


def two_passes(
  pullback: Callable[[Any], Any], *, batch_size: int = 1
) -> _base.Pullback:
  """A pullback whose Gramian is computed with one gradient at a time.

  Use it for many objectives, or if K gradients do not fit in memory. A row of
  the Gramian takes one backward pass for a gradient gᵢ, and one forward pass of
  the linearised network for J gᵢ, the change of all losses along it. The
  combined gradient takes one more backward pass. In all there are K + 1
  backward and K forward passes, and memory for two gradients whatever K is.
  Without `two_passes` there are K backward passes (less, if the gradients are
  block-sparse), and memory for K gradients.

  The Gramian is that of `mimo_jax.gramian` up to rounding. Its diagonal comes
  from the gradients; the rest has the precision of the network, which in
  bfloat16 is 1e-2 of the product of the lengths. The gradients are never there
  all at once, so rules that need the Jacobian refuse this pullback.

  Args:
    pullback: what `jax.vjp(losses_fn, params)` returned.
    batch_size: how many gradients are computed and kept at a time. On
      accelerators several are faster.

  Returns:
    The pullback, for the `update` of `balance`.

  Raises:
    ValueError: if `batch_size` is not a whole number at least 1.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> balance = mimo_jax.balance(mimo_jax.weightings.mgda())
    >>> rows = jnp.array([[3.0, 1.0], [-1.0, 1.0]])
    >>> params = jnp.zeros(2)
    >>> @jax.jit
    ... def update(params, state):
    ...   losses, pullback = jax.vjp(lambda params: rows @ params, params)
    ...   pullback = mimo_jax.two_passes(pullback)
    ...   return balance.update(pullback, state, losses=losses)
    >>> updates, _ = update(params, balance.init(params))
    >>> updates.tolist()  # the shortest between the rows
    [0.0, 1.0]
  """
  _arguments.check('two_passes', _arguments.whole(1), batch_size=batch_size)

  def pull(cotangent: Any) -> tuple[base.PyTree]:
    cotangent = _pullback.like_outputs(pullback, cotangent)
    return (_pullback.pull(pullback, cotangent),)

  def gramian(averages: _base.Averages) -> jax.Array:
    losses = _pullback.like_outputs(pullback, averages.losses)
    shares = _base.flat(averages.shares)

    def of_weights(weights: base.PyTree) -> base.PyTree:
      return _reals.of_gradient(_pullback.pull(pullback, weights))

    # This is J itself: the transpose of a pullback, which is linear.
    push: Any = jax.linear_transpose(of_weights, losses)
    if jax.default_backend() == 'cpu':
      push = _in_turn.in_turn(push, jax.eval_shape(of_weights, losses))

    def row(one: jax.Array) -> tuple[jax.Array, jax.Array]:
      cotangent = jax.tree.map(
        _pullback.vary_like, _base.like(losses, one * shares), losses
      )
      gradient = averages.gradient(_pullback.pull(pullback, cotangent))
      square = averages.products([gradient])[0, 0]
      # Scaled to length 1, so that no product leaves the range of float16.
      length = _numerics.nonzero(jnp.sqrt(square))
      unit = jax.tree.map(lambda leaf: _divided(leaf, length), gradient)
      products = _numerics.scaled(_base.flat(push(unit)[0]), shares)
      return square, _numerics.scaled(averages.total(products), length)

    identity = jnp.eye(len(shares), dtype=shares.dtype)
    parts = [
      identity[start : start + batch_size]
      for start in range(0, len(shares), batch_size)
    ]
    done = _base.for_each(
      jax.vmap(row) if batch_size > 1 else lambda part: _one(row, part), parts
    )
    squares = jnp.concatenate([square for square, _ in done])
    products = jnp.concatenate([products for _, products in done])
    symmetric = (products + products.T) / 2
    present = squares != 0
    symmetric = jnp.where(present[:, None] & present[None, :], symmetric, 0)
    diagonal = jnp.diag(squares.astype(symmetric.dtype))
    return jnp.where(identity != 0, diagonal, symmetric)

  return _base.Pullback(pull, gramian)


def _divided(leaf: jax.Array, length: jax.Array) -> jax.Array:
  wide = _numerics.at_least_float32(leaf)
  return (wide / length.astype(wide.dtype)).astype(leaf.dtype)


def _one(row: Callable[[jax.Array], Any], part: jax.Array) -> Any:
  """`vmap` of a single row, without what it does to convolutions."""
  return jax.tree.map(lambda leaf: leaf[None], row(part[0]))
