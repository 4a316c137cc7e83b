"""The placement of one run's arrays on one device or many.

`config.parallel` says how the training step runs:

- 'single': on one device.
- 'jit': the state is replicated, and each batch is sharded. The step is
  compiled for the whole batch, and XLA divides it.
- 'fsdp': likewise, but large arrays of the state are sharded, too, and
  parameters are gathered while they are used.
- 'pmap': as 'jit', but by `jax.pmap`: each device runs the step on its own
  rows, and means are taken over a named axis.

`config.data.batch_size` counts the rows of all devices together, so the same
seed gives the same training in every mode, up to rounding. Several processes,
each with its own devices, run 'jit' and 'fsdp'; see
`experiments.core.processes`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

import mimo_jax

AXIS = 'device'
MODES = ('single', 'pmap', 'jit', 'fsdp')
# Arrays with fewer elements are not worth sharding: they are replicated.
_SMALL = 4096

Batch = Mapping[str, Any]


class Placement(NamedTuple):
  """How one run is laid out on devices.

  The placement of a state array follows from its shape. It is replicated, but
  under 'fsdp' a large one is sharded along its longest axis whose size is a
  multiple of the number of devices.
  """

  mode: str  # one of MODES
  mesh: Mesh  # all devices, along AXIS

  @property
  def num_devices(self) -> int:
    """The number of devices, of all processes."""
    return self.mesh.size

  @property
  def axis_name(self) -> str | None:
    """The named axis that the step averages over; None where XLA does it."""
    return AXIS if self.mode == 'pmap' else None

  @property
  def everywhere(self) -> NamedSharding:
    """The sharding of replicated arrays."""
    return NamedSharding(self.mesh, PartitionSpec())

  def sharding(self, leaf: Any) -> NamedSharding:
    """The sharding of a state array, given the array or its shape."""
    return NamedSharding(self.mesh, self._spec(leaf))

  def shapes(self, init: Callable[..., Any], *examples: Any) -> Any:
    """Shapes of what `init` returns, with shardings except under 'single'."""
    shapes = jax.eval_shape(init, *examples)
    if self.mode == 'single':
      return shapes
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=self.sharding(leaf)
      ),
      shapes,
    )

  def init(self, init: Callable[..., Any], *examples: Any) -> Any:
    """Calls `init`, compiled, so that the state it returns is in its place."""
    if self.mode == 'single':
      return jax.jit(init)(*examples)
    shardings = jax.tree.map(self.sharding, jax.eval_shape(init, *examples))
    return jax.jit(init, out_shardings=shardings)(*examples)

  def step(
    self, train_step: Callable[[Any, Any], Any], state: Any, donate: bool = True
  ) -> Callable[[Any, Any], Any]:
    """Compiles a training step, for batches that `batch` has made.

    Args:
      train_step: `train_step(state, batch) -> (state, metrics)`, made for this
        placement.
      state: an example, or shapes of one.
      donate: whether the old state donates its memory to the new one, and
        cannot be read after the step.
    """
    donated = (0,) if donate else ()
    if self.mode == 'single':
      return jax.jit(train_step, donate_argnums=donated)
    if self.mode != 'pmap':
      shardings = jax.tree.map(self.sharding, state)
      compiled = jax.jit(
        train_step,
        donate_argnums=donated,
        out_shardings=(shardings, self.everywhere),
      )
      return self._one_at_a_time(compiled)
    mapped = jax.pmap(
      train_step,
      axis_name=AXIS,
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=donated,
      devices=list(self.mesh.devices.flat),
    )

    def step(state: Any, batch: Batch) -> Any:
      parts = {
        name: value.reshape((self.num_devices, -1, *value.shape[1:]))
        for name, value in batch.items()
      }
      return mapped(state, parts)

    return self._one_at_a_time(step)

  def predict(self, predict: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles `predict(variables, batch, *others)`.

    Every process passes all rows of a batch, on the host, and gets all outputs.
    """
    if self.mode == 'single':
      return jax.jit(predict)
    compiled = self._one_at_a_time(
      jax.jit(predict, out_shardings=self.everywhere)
    )
    given: Batch | None = None
    placed: Any = None

    def placing(variables: Any, batch: Batch, *others: Any) -> Any:
      nonlocal given, placed
      if batch is not given:  # the same batch comes for each condition
        given, placed = batch, self.whole_batch(batch)
      return compiled(variables, placed, *others)

    return placing

  def batch(self, rows: Batch) -> Any:
    """A batch for the step, from the rows that each process has loaded.

    It is sharded over all devices. Under 'single' and 'pmap', whose steps take
    batches from the host, it stays as it is.
    """
    if self.mode in ('single', 'pmap'):
      return rows
    divided = NamedSharding(self.mesh, PartitionSpec(AXIS))
    return {
      name: jax.make_array_from_process_local_data(divided, value)
      for name, value in rows.items()
    }

  def whole_batch(self, batch: Batch) -> Any:
    """A batch all of whose rows every process has loaded.

    It is sharded by rows if their number is a multiple of the number of
    devices, and replicated otherwise.
    """
    if self.mode == 'single':
      return batch

    def place(value: Any) -> jax.Array:
      value = np.asarray(value)
      is_even = value.shape[0] % self.num_devices == 0
      spec = PartitionSpec(AXIS) if is_even else PartitionSpec()
      return jax.make_array_from_callback(
        value.shape, NamedSharding(self.mesh, spec), lambda part: value[part]
      )

    return {name: place(value) for name, value in batch.items()}

  def put(self, state: Any) -> Any:
    """Moves every array of a state into its place."""
    if self.mode == 'single':
      return state
    return jax.device_put(state, jax.tree.map(self.sharding, state))

  def gathered(self, tree: Any) -> Any:
    """Gathers the arrays that the step computes with, under 'fsdp'.

    It is called inside the compiled step. Without it, XLA would shard the
    model's matrix products rather than the batch, and exchange activations.
    """
    if self.mode != 'fsdp':
      return tree
    return lax.with_sharding_constraint(tree, self.everywhere)

  def balance(
    self, weighting: mimo_jax.Weighting, **options: Any
  ) -> optax.GradientTransformationExtraArgs:
    """`mimo_jax.balance` for a run with this placement."""
    if self.mode == 'fsdp':
      options['gramian'] = self._gramian
    return mimo_jax.balance(weighting, **options, axis_name=self.axis_name)

  def _gramian(self, jacobian: Any, objectives: Any) -> jax.Array:
    """The Gramian of gradients that are sharded like the parameters.

    Each device computes the Gramian of its own shards, and the K x K results
    are summed: no gradient is gathered.
    """
    gradients = [jacobian[name] for name in objectives]
    specs = jax.tree.map(self._spec, gradients[0])
    # A replicated leaf is in the sum N times, once for each device. With its
    # gradients divided by √N, the N products add up to one.
    factors = jax.tree.map(
      lambda spec: 1.0 if AXIS in spec else self.num_devices**-0.5,
      specs,
      is_leaf=lambda spec: isinstance(spec, PartitionSpec),
    )

    def of_parts(gradients: Any) -> jax.Array:
      scaled = [jax.tree.map(jnp.multiply, one, factors) for one in gradients]
      return lax.psum(mimo_jax.gramian(scaled, range(len(scaled))), AXIS)

    return jax.shard_map(
      of_parts,
      mesh=self.mesh,
      in_specs=([specs] * len(gradients),),
      out_specs=PartitionSpec(),
      check_vma=False,
    )(gradients)

  def _spec(self, leaf: Any) -> PartitionSpec:
    """The axis along which a state array is sharded, if any."""
    even = [
      axis
      for axis, size in enumerate(leaf.shape)
      if size % self.num_devices == 0
    ]
    if self.mode != 'fsdp' or leaf.size < _SMALL or not even:
      return PartitionSpec()
    longest = max(even, key=lambda axis: leaf.shape[axis])
    return PartitionSpec(*[None] * longest, AXIS)

  def _one_at_a_time(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes each call wait for its result where two at a time can deadlock.

    XLA runs all CPU devices of a process on one thread pool, and a collective
    blocks one thread per device until all devices have reached it. Two programs
    in flight can each hold the threads that the other waits for.
    """
    platform = self.mesh.devices.flat[0].platform
    if self.num_devices == 1 or platform != 'cpu':
      return function

    @functools.wraps(function)
    def waiting(*arguments: Any) -> Any:
      return jax.block_until_ready(function(*arguments))

    return waiting


def make(mode: str, devices: Sequence[jax.Device] | None = None) -> Placement:
  """The placement of a mode on some devices, by default on all.

  'single' uses the first.

  Raises:
    ValueError: if there is no such mode, or it does not run in several
      processes.
  """
  if mode not in MODES:
    raise ValueError(f'config.parallel is {mode!r}; expected one of {MODES}.')
  if jax.process_count() > 1 and mode not in ('jit', 'fsdp'):
    raise ValueError(
      f'config.parallel is {mode!r}, which runs in one process, and there are'
      f" {jax.process_count()}; expected 'jit' or 'fsdp'."
    )
  some = list(jax.devices() if devices is None else devices)
  if mode == 'single':
    some = some[:1]
  axis_types = (AxisType.Auto,)
  return Placement(mode, Mesh(np.array(some), (AXIS,), axis_types=axis_types))
