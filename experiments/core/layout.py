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

# The axes of the runs along which an argument of a function varies.
RUNS, SEEDS, SAME = ('variants', 'seeds'), ('seeds',), ()  # fmt: skip


class Layout(NamedTuple):
  """Variants × seeds on devices, padded to divide evenly.

  Arrays have leading axes [variants, seeds], or [seeds] for a single variant.
  Padding repeats the last variant or seed, and is neither saved nor evaluated.
  """

  mesh: Mesh  # variants × seeds
  num_variants: int
  num_seeds: int

  @property
  def shape(self) -> tuple[int, ...]:
    """The sizes of the leading axes, without padding."""
    runs = (self.num_variants, self.num_seeds)
    return runs if self.num_variants > 1 else runs[1:]

  @property
  def axes(self) -> tuple[str, ...]:
    """The names of the leading axes."""
    return RUNS[-len(self.shape) :]

  @property
  def places(self) -> tuple[list[int], ...]:
    """For each leading axis, the variant or seed at each place, padded."""
    return tuple(
      _padded(number, self.mesh.shape[axis])
      for number, axis in zip(self.shape, self.axes, strict=True)
    )

  def sharding(self, along: Sequence[str]) -> Sharding:
    """The sharding of an array that varies along some axes, its first ones."""
    if self.mesh.size == 1:  # no mesh: `over_runs` may then nest `vmap`
      return SingleDeviceSharding(self.mesh.devices.item())
    return NamedSharding(self.mesh, self._spec(along))

  def over_runs(
    self, function: Callable[..., Any], *along: Sequence[str]
  ) -> Callable[..., Any]:
    """Maps a function of one run over all runs.

    `along` are the axes along which each argument varies. Outputs vary along
    all axes.
    """
    sizes = tuple(
      len(places) // self.mesh.shape[axis]
      for axis, places in zip(self.axes, self.places, strict=True)
    )
    if self.mesh.size > 1:
      return jax.shard_map(
        _flat(function, sizes, along, self.axes),
        mesh=self.mesh,
        in_specs=tuple(map(self._spec, along)),
        out_specs=self._spec(RUNS),
        check_vma=False,  # methods make constants, which are replicated
      )
    for axis, size in reversed([*zip(self.axes, sizes, strict=True)]):
      function = jax.vmap(
        function,
        in_axes=[0 if axis in each else None for each in along],
        axis_size=size,
      )
    return function

  def wanted(self, leaf: Any) -> Any:
    """The array without padding; a view if it is NumPy's."""
    return leaf[tuple(map(slice, self.shape))]

  def flat(self, leaf: Any) -> Any:
    """The array as [runs, ...], variants first, without padding."""
    return self.wanted(leaf).reshape(-1, *leaf.shape[len(self.shape) :])

  def first(self, tree: Any) -> Any:
    """The first run of a tree."""
    return jax.tree.map(lambda leaf: leaf[(0,) * len(self.shape)], tree)

  def saved(self, tree: Any) -> Any:
    """A tree of all runs as NumPy arrays, whatever the number of devices."""
    # Copies, since a step may overwrite the buffers that it is given.
    return jax.tree.map(
      lambda leaf: np.array(self.wanted(np.asarray(leaf))), _without_keys(tree)
    )

  def restored(self, saved: Any, like: Any) -> Any:
    """The tree that `saved` saved; `like`: the shapes of one run."""
    padded = np.ix_(*self.places)
    whole = jax.tree.map(lambda leaf: np.asarray(leaf)[padded], saved)
    return jax.device_put(_with_keys(whole, like), self.sharding(RUNS))

  def shapes(self, like: Any) -> Any:
    """The shapes of what `saved` returns; `like`: the shapes of one run."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(self.shape + leaf.shape, leaf.dtype),
      jax.eval_shape(_without_keys, like),
    )

  def placed(self, runs: Sequence[Any]) -> Any:
    """Joins single runs, variants first, into a tree of all runs in place."""

    def stacked(*leaves: Any) -> Any:
      return np.stack(leaves).reshape(self.shape + leaves[0].shape)

    return self.restored(
      jax.tree.map(stacked, *map(_without_keys, runs)), runs[0]
    )

  def one_by_one(self, tree: Any) -> Iterator[Any]:
    """The single runs of a tree, variants first: NumPy arrays, random keys."""
    saved = self.saved(tree)
    for place in np.ndindex(self.shape):
      one = jax.tree.map(lambda leaf, place=place: leaf[place], saved)
      yield _with_keys(one, tree)

  def _spec(self, along: Sequence[str]) -> PartitionSpec:
    return PartitionSpec(*(axis for axis in along if axis in self.axes))


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
  """The tree with the data of random keys in place of the keys."""
  return jax.tree.map(
    lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree
  )


def _with_keys(tree: Any, like: Any) -> Any:
  """Undoes `_without_keys`: random keys are where those of `like` are."""
  return jax.tree.map(
    lambda leaf, one: jax.random.wrap_key_data(leaf) if _is_key(one) else leaf,
    tree,
    like,
  )


def make(
  num_variants: int,
  num_seeds: int,
  devices: Sequence[jax.Device] | None = None,
) -> Layout:
  """The layout of variants × seeds on some devices, by default on all."""
  devices = jax.devices() if devices is None else devices
  rows, columns = _smallest(num_variants, num_seeds, len(devices))
  used = np.array(devices[: rows * columns]).reshape(rows, columns)
  return Layout(Mesh(used, RUNS), num_variants, num_seeds)


def _smallest(
  num_variants: int, num_seeds: int, num_devices: int
) -> tuple[int, int]:
  """Rows and columns of the grid of devices with the fewest runs on each.

  Among equals it is the grid with the fewest devices, then with the fewest
  columns, since the devices of a column share batches.

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
  """Maps a function of one run over the runs of a device by a single `vmap`.

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


def _padded(number: int, divisor: int) -> list[int]:
  """0 to number − 1, the last repeated until `divisor` divides the length.

  Examples:
    >>> _padded(3, 2)
    [0, 1, 2, 2]
  """
  length = -(-number // divisor) * divisor
  return [min(i, number - 1) for i in range(length)]
