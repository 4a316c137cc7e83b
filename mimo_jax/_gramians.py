"""Gramians of gradients, of all parts (groups of parameters) at once.

Each large leaf has its own reduction. The small leaves of all parts are reduced
together, so the number of kernels hardly grows with the number of parts.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mimo_jax import _numerics
from mimo_jax import base

# Products are summed in runs of this length, then the runs are summed. In a
# single reduction to a scalar, XLA on CPU adds millions of float32 numbers one
# after the other, with a relative error of 2e-2 at 1e7 parameters. With runs of
# 64 it is 1e-7.
_RUN, _LANES = 64, 1
# For two or three objectives: eight shorter runs side by side. LLVM unrolls a
# run up to some 300 instructions, K(K+3) for each number, and only then adds
# lanes as one vector. This takes 1.0 to 1.7 times as long as a plain read on
# CPU; runs of 64 take 1.6 to 4 times. From K = 4 the runs would be so short
# that storing their sums costs more than is saved. (Taking rows in pairs halves
# the time for plain arrays in the cache. But each pair would repeat what XLA
# fuses with a gradient, such as a transposed convolution or a conversion from
# bfloat16, and the whole is slower.) Runs and lanes are powers of two: else
# finding a number's place in a leaf of several axes costs divisions.
_VECTOR_RUN, _VECTOR_LANES = 16, 8
_VECTOR_SIZES = (2, 3)
# On an accelerator a block of threads reads a run side by side and adds it up
# as a tree. For gradients of 1e8 numbers on an H200, runs of 512 and 2048 reach
# 0.8 to 1.0 of the speed of a plain read; the runs above reach 0.4 to 0.7.
_ACCELERATOR_RUN = 1024
# With more objectives than this, the K(K+1)/2 sums of each leaf take seconds to
# compile, so a matrix product is used.
_MAX_UNROLLED = 16
# Leaves smaller than this (biases, norms) are reduced together. Copying them
# costs almost nothing, and compiling takes half as long.
_SMALL = 4096

# K gradients, pytrees of one structure.
Gradients: TypeAlias = Sequence[base.PyTree]


def of_parts(parts: Sequence[Gradients]) -> jax.Array:
  """Computes the Gramians [G, K, K] of G parts, each K gradients.

  Each is as exact as `mimo_jax.gramian` and symmetric to the bit, in float32 or
  the widest type of all. Gradients may have no leaves.
  """
  leaves = jax.tree.leaves(list(parts))
  if any(_numerics.explicit_sharding(leaf) is not None for leaf in leaves):
    # Leaves with different shardings are concatenated.
    return jax.sharding.auto_axes(_of_parts, out_sharding=jax.P())(parts)
  return _of_parts(parts)


def _of_parts(parts: Sequence[Gradients]) -> jax.Array:
  size = len(parts[0])
  if size > _MAX_UNROLLED:
    return jnp.stack([_by_matrix_products(gradients) for gradients in parts])
  run, lanes = _run_and_lanes(size, jax.default_backend())
  block = run * lanes
  # Rows of the entries i <= j of Gramians, made into matrices only at the end:
  # stacking scalars to a matrix for every leaf would take half of the compile
  # time at K = 7. `owners` has the part of each row. The last row is of zeros
  # and belongs to none: it pads the parts that have fewer rows.
  table, owners = [], []
  small: dict[int, list[tuple[int, Gradients]]] = {}
  for part, gradients in enumerate(parts):
    large, rest = _pieces(gradients, block)
    for leaf in large:
      sums = _sums([row.reshape(-1, run, lanes) for row in leaf])
      table.append(sums[None])
      owners.append(part)
    if rest:
      # Batched with others of up to twice its size, to which it is padded.
      length = (rest[0].size - 1) // block
      small.setdefault(length.bit_length(), []).append((part, rest))
  for members in small.values():
    longest = max(rest[0].size for _, rest in members)
    length = longest + -longest % block
    rows = [
      _joined([jnp.pad(each, (0, length - each.size)) for each in row])
      for row in zip(*(rest for _, rest in members), strict=True)
    ]
    shape = (len(members), -1, run, lanes)
    table.append(_sums([row.reshape(shape) for row in rows]))
    owners += [part for part, _ in members]
  table.append(jnp.zeros((1, size * (size + 1) // 2), jnp.float32))
  places = _places(owners, len(parts))
  upper = jnp.sum(_joined(table)[places], axis=1)
  entry = np.zeros((size, size), int)
  entry[np.triu_indices(size)] = range(upper.shape[1])
  return upper[:, np.maximum(entry, entry.T)]


def _by_matrix_products(gradients: Gradients) -> jax.Array:
  """Computes the Gramian of one part, for many objectives."""
  large, rest = _pieces(gradients, 1)
  all_rows = [*large, rest] if rest else large
  dtype = _numerics.wide(*(row for rows in all_rows for row in rows))
  total = jnp.zeros((len(gradients), len(gradients)), dtype)
  for rows in all_rows:
    matrix = jnp.stack(rows)
    # By default, accelerators multiply float32 in fewer bits.
    product = jnp.matmul(matrix, matrix.T, precision=lax.Precision.HIGHEST)
    total = total + ((product + product.T) / 2).astype(dtype)
  return total


def _run_and_lanes(size: int, backend: str) -> tuple[int, int]:
  """Returns the run and lanes that reduce K = `size` gradients fastest."""
  if backend != 'cpu':
    return _ACCELERATOR_RUN, 1
  if size in _VECTOR_SIZES:
    return _VECTOR_RUN, _VECTOR_LANES
  return _RUN, _LANES


def _pieces(
  gradients: Gradients, block: int
) -> tuple[list[list[jax.Array]], list[jax.Array]]:
  """Splits K gradients into large flat arrays and the concatenated rest.

  Returns for each large leaf K flat arrays, cut to whole blocks; and K arrays
  with all small leaves and the remainders of the large ones, [] if nothing is
  left, since each array costs a reduction to compile and launch.
  """
  flat = [[_flat(leaf) for leaf in jax.tree.leaves(row)] for row in gradients]
  large, rest = [], []
  for rows in zip(*flat, strict=True):
    size = rows[0].size
    whole = size - size % block if size >= _SMALL else 0
    if whole:
      large.append([row[:whole] for row in rows])
    if whole < size:
      rest.append([row[whole:] for row in rows])
  return large, [_joined(row) for row in zip(*rest, strict=True)]


def _joined(arrays: Sequence[jax.Array]) -> jax.Array:
  """Concatenates arrays in the widest of their types."""
  dtype = _numerics.wide(*arrays)
  return jnp.concatenate([array.astype(dtype) for array in arrays])


def _flat(leaf: jax.typing.ArrayLike) -> jax.Array:
  leaf = _numerics.at_least_float32(jnp.asarray(leaf))
  if jnp.iscomplexobj(leaf):  # a pair of reals
    leaf = jnp.stack([jnp.real(leaf), jnp.imag(leaf)])
  return leaf.reshape(-1)


def _sums(rows: Sequence[jax.Array]) -> jax.Array:
  """Inner products [..., K(K+1)/2] of the pairs i <= j, by one pass.

  The K rows are [..., blocks, run, lanes].
  """
  products = tuple(
    row * other for i, row in enumerate(rows) for other in rows[i:]
  )
  # One variadic reduction, so that each row is read once for all its products.
  partial_sums = lax.reduce(
    products,
    tuple(jnp.zeros((), product.dtype) for product in products),
    lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True)),
    dimensions=(rows[0].ndim - 2,),
  )
  return jnp.stack([jnp.sum(each, (-2, -1)) for each in partial_sums], axis=-1)


def _places(owners: Sequence[int], count: int) -> np.ndarray:
  """Lists the rows of each part, padded with the index of the row of zeros."""
  owned: list[list[int]] = [[] for _ in range(count)]
  for row, part in enumerate(owners):
    owned[part].append(row)
  longest = max(map(len, owned))
  filled = [rows + [len(owners)] * (longest - len(rows)) for rows in owned]
  return np.array(filled, int).reshape(count, longest)
