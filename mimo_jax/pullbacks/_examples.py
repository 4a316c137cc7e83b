"""Losses of single examples, and the Gramian of all of them by chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mimo_jax import _arguments
from mimo_jax import _pullback
from mimo_jax import base
from mimo_jax.pullbacks import _base


def vjp_of_examples(
  loss_fn: Callable[..., jax.Array],
  params: base.PyTree,
  batch: base.PyTree,
  *,
  batch_size: int = 16,
) -> tuple[jax.Array, _base.Pullback]:
  """The loss of every example, and a pullback that knows their Gramian.

  Use it to resolve conflicts between the samples of a batch (TorchJD's
  instance-wise risk minimisation): each example, or each output of an example,
  is an objective. The Gramian is computed from chunks of `batch_size` examples,
  of which two are kept at a time. The combined gradient is one backward pass
  over the batch. With B examples in n chunks, every single gradient is computed
  (n + 1) / 2 times on average, and memory holds two chunks of them; with one
  chunk they are computed once.

  The examples must be independent of each other. If they are not (batch
  normalisation in training), give `mimo_jax.two_passes` the pullback of a
  function from params to losses `[B]`; this costs B passes over the batch.

  No example is a primary objective: take a rule without one, such as
  `mimo_jax.weightings.mgda` or `upgrad`. Weights are those of K = B objectives:
  the mean of B losses has weights 1/B.

  Args:
    loss_fn: `loss_fn(params, example) -> loss`, a scalar, or a vector `[K]`;
      `example` is a pytree like `batch` without its first axis.
    params: pytree.
    batch: pytree of arrays [B, ...].
    batch_size: examples in a chunk.

  Returns:
    Losses, `[B]` or `[B, K]`, and the pullback, for the `update` of `balance`,
    which takes each entry for an objective.

  Raises:
    ValueError: if the leaves of the batch do not have the same B, or B = 0; if
      the loss of an example is no scalar or vector; or if `batch_size` is not a
      whole number at least 1.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> balance = mimo_jax.balance(mimo_jax.weightings.upgrad())
    >>> def loss_fn(params, example):
    ...   return (example['x'] @ params - example['y']) ** 2
    >>> batch = {
    ...   'x': jnp.array([[1.0, 1.0], [1.0, -0.5]]), 'y': jnp.array([1.0, -1.0])
    ... }
    >>> params = jnp.zeros(2)
    >>> @jax.jit
    ... def update(params, state, batch):
    ...   losses, pullback = mimo_jax.vjp_of_examples(loss_fn, params, batch)
    ...   return balance.update(pullback, state, losses=losses)
    >>> updates, _ = update(params, balance.init(params), batch)
    >>> gradients = -2 * batch['y'][:, None] * batch['x']  # they conflict
    >>> (gradients @ updates).tolist()  # and neither loss gets worse
    [3.6, 2.25]

  References:
    P. Quinton and V. Rey, `Jacobian Descent For Multi-Objective Optimization
    <https://arxiv.org/abs/2406.16232>`_, 2024, section 6.
  """
  _arguments.check(
    'vjp_of_examples', _arguments.whole(1), batch_size=batch_size
  )
  sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
  if len(sizes) != 1 or sizes == {()}:
    raise ValueError(
      f'The leaves of the batch begin with {sorted(sizes)}; expected [B, ...]'
      ' with the same B in each.'
    )
  number = sizes.pop()[0]
  if number == 0:
    raise ValueError(
      'The batch of vjp_of_examples has no examples: its leaves begin with'
      ' (0,); expected at least one. Skip the step.'
    )

  def losses_of(params: base.PyTree) -> jax.Array:
    return jax.vmap(loss_fn, in_axes=(None, 0))(params, batch)

  losses, pullback = jax.vjp(losses_of, params)
  if not hasattr(losses, 'ndim') or losses.ndim not in (1, 2):
    raise ValueError(
      'loss_fn returned'
      f' {jax.tree.map(lambda leaf: leaf.shape[1:], losses)} for an example;'
      ' expected a scalar, or a vector [K]: jnp.stack of several losses.'
    )
  each = losses.size // number  # objectives of an example

  def pull(cotangent: jax.Array) -> tuple[base.PyTree]:
    gradient: Any = pullback(cotangent.astype(losses.dtype))
    return gradient

  def gramian(averages: _base.Averages) -> jax.Array:
    width = min(batch_size, number)
    count = -(-number // width)
    shares = jnp.reshape(averages.shares, (number, each))

    def rows_of(part: Any, seed: jax.Array) -> list[jax.Array]:
      # Past the end, repeat the last one; these are cut off below.
      index = jnp.minimum(part * width + np.arange(width), number - 1)
      examples, scales = jax.tree.map(lambda x: x[index], (batch, shares))

      def of_example(example: base.PyTree, scale: jax.Array) -> Any:
        loss, pull_one = jax.vjp(lambda p: loss_fn(p, example), params)

        def row(weights: jax.Array) -> base.PyTree:
          weights = weights.reshape(loss.shape).astype(loss.dtype)
          weights = _pullback.vary_like(weights, loss)
          return averages.gradient(_pullback.pull(pull_one, weights))

        return jax.vmap(row)(jnp.diag(scale + seed.astype(scale.dtype)))

      leaves = jax.tree.leaves(jax.vmap(of_example)(examples, scales))
      return [leaf.reshape(width * each, -1) for leaf in leaves]

    if jax.default_backend() == 'cpu':
      blocks = _written_out(rows_of, count, averages.cross)
    else:
      blocks = _in_loops(rows_of, count, averages.cross)
    side = count * width * each
    lower = blocks.transpose(0, 2, 1, 3).reshape(side, side)
    lower = lower[: losses.size, : losses.size]
    return jnp.tril(lower) + jnp.tril(lower, -1).T

  return losses, _base.Pullback(pull, gramian)


def _written_out(
  rows_of: Callable[..., list[jax.Array]], count: int, cross: Any
) -> jax.Array:
  """Blocks [count, count, b, b] on and below the diagonal, for a CPU."""
  blocks: dict[tuple[int, int], jax.Array] = {}
  last = jnp.zeros(())

  def product(rows: list[jax.Array], others: list[jax.Array]) -> jax.Array:
    nonlocal last
    block: jax.Array = cross(rows, others)
    last = 0 * block[0, 0]  # the next block waits for this one
    return block

  for i in range(count):
    rows = rows_of(i, last)
    blocks[i, i] = product(rows, rows)
    for j in range(i):
      blocks[i, j] = product(rows, rows_of(j, last))
  zeros = jnp.zeros_like(blocks[0, 0])
  return jnp.stack(
    [
      jnp.stack([blocks.get((i, j), zeros) for j in range(count)])
      for i in range(count)
    ]
  )


def _in_loops(
  rows_of: Callable[..., list[jax.Array]], count: int, cross: Any
) -> jax.Array:
  """The same, compiled once for all chunks."""

  def row_of_blocks(i: jax.Array) -> jax.Array:
    rows = rows_of(i, jnp.zeros(()))
    own = cross(rows, rows)
    blocks = jnp.zeros((count, *own.shape), own.dtype).at[i].set(own)

    def against(j: jax.Array, blocks: jax.Array) -> jax.Array:
      return blocks.at[j].set(cross(rows, rows_of(j, jnp.zeros(()))))

    return lax.fori_loop(0, i, against, blocks)

  return lax.map(row_of_blocks, jnp.arange(count))
