"""Distributes whole runs over the devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jax.sharding import Sharding
from jax.sharding import SingleDeviceSharding

# Along which axes of the runs an argument of a function changes.
RUNS, SEEDS, SAME = ('variants', 'seeds'), ('seeds',), ()  # fmt: skip


class Layout(NamedTuple):
  """Variants × seeds on devices, filled up where that is uneven.

  Arrays have leading axes [variants, seeds], or [seeds] for a single variant.
  What fills up repeats the last ones, and is neither saved nor evaluated.
  """

  mesh: Mesh  # variants × seeds
  num_variants: int
  num_seeds: int

  @property
  def shape(self) -> tuple[int, ...]:
    """The leading axes, not filled up."""
    runs = (self.num_variants, self.num_seeds)
    return runs if self.num_variants > 1 else runs[1:]

  @property
  def axes(self) -> tuple[str, ...]:
    """The names of the leading axes."""
    return RUNS[-len(self.shape) :]

  @property
  def places(self) -> tuple[list[int], ...]:
    """For each leading axis which variant or seed stands at each place."""
    return tuple(
      _filled(number, self.mesh.shape[axis])
      for number, axis in zip(self.shape, self.axes, strict=True)
    )

  def sharding(self, along: Sequence[str]) -> Sharding:
    """Of an array that changes along some axes, its first ones."""
    if self.mesh.size == 1:  # without a mesh, see `_flat`
      return SingleDeviceSharding(self.mesh.devices.item())
    return NamedSharding(self.mesh, self._spec(along))

  def over_runs(
    self, function: Callable[..., Any], *along: Sequence[str]
  ) -> Callable[..., Any]:
    """A function of one run, for all of them.

    Args:
      function: of one run.
      *along: for each argument the axes along which it changes.

    Returns:
      A function whose outputs change along all axes.
    """
    sizes = tuple(
      len(places) // self.mesh.shape[axis]
      for axis, places in zip(self.axes, self.places, strict=True)
    )
    if self.mesh.size > 1:
      return self.on_devices(_flat(function, sizes, along, self.axes), *along)
    for axis, size in reversed([*zip(self.axes, sizes, strict=True)]):
      function = jax.vmap(
        function,
        in_axes=[0 if axis in each else None for each in along],
        axis_size=size,
      )
    return function

  def on_devices(
    self, function: Callable[..., Any], *along: Sequence[str]
  ) -> Callable[..., Any]:
    """A function of the runs of one device, for those of all."""
    if self.mesh.size == 1:
      return function
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=tuple(map(self._spec, along)),
      out_specs=self._spec(RUNS),
      check_vma=False,  # methods make constants, which are on all devices
    )

  def wanted(self, leaf: Any) -> Any:
    """An array without what fills up; of one in NumPy, a view."""
    return leaf[tuple(map(slice, self.shape))]

  def filled(self, leaf: Any) -> Any:
    """An array, filled up."""
    return leaf[np.ix_(*self.places)]

  def flat(self, leaf: Any) -> Any:
    """An array [runs, ...], variants first, without what fills up."""
    return self.wanted(leaf).reshape(-1, *leaf.shape[len(self.shape) :])

  def first(self, tree: Any) -> Any:
    """The first run of a tree."""
    return jax.tree.map(lambda leaf: leaf[(0,) * len(self.shape)], tree)

  def saved(self, tree: Any) -> Any:
    """A tree of all runs in NumPy, the same on any number of devices."""
    # Copies: what a step is given, it may write over.
    return jax.tree.map(
      lambda leaf: np.array(self.wanted(np.asarray(_key_data(leaf)))), tree
    )

  def restored(self, saved: Any, like: Any) -> Any:
    """The tree of all runs that was saved; `like`: shapes of one run of it."""
    where = self.sharding(RUNS)

    def restore(leaf: Any, one: Any) -> jax.Array:
      leaf = _as_key(self.filled(np.asarray(leaf)), one)
      return jax.device_put(leaf, where)

    return jax.tree.map(restore, saved, like)

  def shapes(self, like: Any) -> Any:
    """The shapes of what is saved; `like`: those of one run."""

    def shape(one: Any) -> jax.ShapeDtypeStruct:
      data = jax.eval_shape(_key_data, one)
      return jax.ShapeDtypeStruct(self.shape + data.shape, data.dtype)

    return jax.tree.map(shape, like)

  def placed(self, runs: Sequence[Any]) -> Any:
    """The tree of all runs, variants first, each made on one device."""

    def stacked(*leaves: Any) -> Any:
      stack = np.stack([np.asarray(_key_data(leaf)) for leaf in leaves])
      return stack.reshape(self.shape + stack.shape[1:])

    return self.restored(jax.tree.map(stacked, *runs), runs[0])

  def one_by_one(self, tree: Any) -> Iterator[Any]:
    """The runs of a tree, variants first, in NumPy but for random keys."""
    saved = self.saved(tree)

    def one(place: tuple[int, ...]) -> Any:
      return jax.tree.map(
        lambda leaf, like: _as_key(leaf[place], like), saved, tree
      )

    return map(one, np.ndindex(self.shape))

  def _spec(self, along: Sequence[str]) -> PartitionSpec:
    return PartitionSpec(*(axis for axis in along if axis in self.axes))


def _key_data(leaf: Any) -> Any:
  """An array; of random keys what they are made of."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


def _as_key(leaf: Any, like: Any) -> Any:
  """An array; random keys of what they are made of, if `like` is of them."""
  if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(leaf)
  return leaf


def make(
  num_variants: int,
  num_seeds: int,
  devices: Sequence[jax.Device] | None = None,
) -> Layout:
  """The layout of so many runs on some devices, by default on all."""
  devices = jax.devices() if devices is None else devices
  rows, columns = _smallest(num_variants, num_seeds, len(devices))
  used = np.array(devices[: rows * columns]).reshape(rows, columns)
  return Layout(Mesh(used, RUNS), num_variants, num_seeds)


def _smallest(
  num_variants: int, num_seeds: int, num_devices: int
) -> tuple[int, int]:
  """Rows and columns of devices that have the fewest runs each.

  Of equal ones the smallest, and of these the one that shares batches.

  Examples:
    >>> _smallest(4, 4, 8), _smallest(3, 4, 8), _smallest(2, 1, 8)
    ((4, 2), (3, 2), (2, 1))
  """

  def cost(shape: tuple[int, int]) -> tuple[int, int, int]:
    rows, columns = shape
    runs_each = -(-num_variants // rows) * -(-num_seeds // columns)
    return runs_each, rows * columns, columns

  shapes = [
    (rows, columns)
    for rows in range(1, num_devices + 1)
    for columns in range(1, num_devices // rows + 1)
  ]
  return min(shapes, key=cost)


def _flat(
  function: Callable[..., Any],
  sizes: tuple[int, ...],
  along: Sequence[Sequence[str]],
  axes: Sequence[str],
) -> Callable[..., Any]:
  """A function of one run for all of a device, under a single `vmap`.

  JAX cannot vmap gradients of convolutions twice where arrays have a mesh.
  """

  def spread(leaf: jax.Array, changes: Sequence[str]) -> jax.Array:
    own = sum(axis in changes for axis in axes)
    whole = jnp.broadcast_to(leaf, sizes + leaf.shape[own:])
    return whole.reshape(-1, *leaf.shape[own:])

  def of_all(*arguments: Any) -> Any:
    found = jax.vmap(function, [0 if each else None for each in along])(
      *(
        jax.tree.map(lambda leaf, each=each: spread(leaf, each), argument)
        if each
        else argument
        for argument, each in zip(arguments, along, strict=True)
      )
    )
    return jax.tree.map(
      lambda leaf: leaf.reshape(*sizes, *leaf.shape[1:]), found
    )

  return of_all


def _filled(number: int, divisor: int) -> list[int]:
  """0 to number − 1, the last one repeated until it can be divided.

  Examples:
    >>> _filled(3, 2)
    [0, 1, 2, 2]
  """
  length = -(-number // divisor) * divisor
  return [min(i, number - 1) for i in range(length)]
