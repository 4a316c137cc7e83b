"""Where the arrays of one run lie: on one device or on many.

`config.parallel` says how the training step runs:

- 'single': on one device.
- 'jit': every device has all of the state and a part of each batch. The step is
  compiled for the whole batch, and XLA divides it.
- 'fsdp': likewise, but every device keeps a part of each large array of the
  state, and parameters are put together while they are used.
- 'pmap': as 'jit', by `jax.pmap`: each device runs the step on its own part,
  and averages are taken by name.

`config.data.batch_size` is that of all devices together, so the same seed gives
the same training in every mode, to rounding. Several processes, each with
devices of its own, run 'jit' and 'fsdp'; see `experiments.core.processes`.
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
# Arrays of fewer numbers are not worth dividing: every device has all of them.
_SMALL = 4096

Batch = Mapping[str, Any]


class Placement(NamedTuple):
  """How one run is laid out on devices.

  Where an array of the state lies follows from its shape: all of it on every
  device; under 'fsdp' a large one is divided along the longest of its axes that
  the number of devices divides.
  """

  mode: str  # one of MODES
  mesh: Mesh  # all devices, along AXIS

  @property
  def num_devices(self) -> int:
    """The number of devices, of all processes."""
    return self.mesh.size

  @property
  def axis_name(self) -> str | None:
    """The axis that the step averages over by name; None where XLA does."""
    return AXIS if self.mode == 'pmap' else None

  @property
  def everywhere(self) -> NamedSharding:
    """The sharding of what every device has all of."""
    return NamedSharding(self.mesh, PartitionSpec())

  def sharding(self, leaf: Any) -> NamedSharding:
    """The sharding of an array of the state, or of one of such a shape."""
    return NamedSharding(self.mesh, self._spec(leaf))

  def shapes(self, init: Callable[..., Any], *examples: Any) -> Any:
    """Shapes of what `init` returns, with shardings but for 'single'."""
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
    """Calls what makes the first state, compiled; it lies where it belongs."""
    if self.mode == 'single':
      return jax.jit(init)(*examples)
    shardings = jax.tree.map(self.sharding, jax.eval_shape(init, *examples))
    return jax.jit(init, out_shardings=shardings)(*examples)

  def step(
    self, train_step: Callable[[Any, Any], Any], state: Any, donate: bool = True
  ) -> Callable[[Any, Any], Any]:
    """Compiles a training step.

    Args:
      train_step: `train_step(state, batch) -> (state, metrics)`, made for this
        placement.
      state: an example, or shapes of one.
      donate: whether the old state gives its memory to the new one, and cannot
        be read after the step.

    Returns:
      The compiled function, for batches of `batch`.
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

    Every process has all rows of a batch, on the host, and gets all outputs.
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
      if batch is not given:  # one batch comes once for each condition
        given, placed = batch, self.whole_batch(batch)
      return compiled(variables, placed, *others)

    return placing

  def batch(self, rows: Batch) -> Any:
    """A batch for the step, of the rows that each process has loaded.

    Over all devices; for 'single' and 'pmap', which take it from the host, as
    it is.
    """
    if self.mode in ('single', 'pmap'):
      return rows
    divided = NamedSharding(self.mesh, PartitionSpec(AXIS))
    return {
      name: jax.make_array_from_process_local_data(divided, value)
      for name, value in rows.items()
    }

  def whole_batch(self, batch: Batch) -> Any:
    """A batch of which every process has loaded all rows.

    Divided by rows if that is even, or else whole on each device.
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
    """The state with every array where it belongs, wherever it was computed."""
    if self.mode == 'single':
      return state
    return jax.device_put(state, jax.tree.map(self.sharding, state))

  def gathered(self, tree: Any) -> Any:
    """What the step computes with: under 'fsdp', divided arrays put together.

    Inside the compiled step. Without it XLA would divide the model's matrix
    products rather than the batch, and exchange activations.
    """
    if self.mode != 'fsdp':
      return tree
    return lax.with_sharding_constraint(tree, self.everywhere)

  def balance(
    self, weighting: mimo_jax.Weighting, **options: Any
  ) -> optax.GradientTransformationExtraArgs:
    """`mimo_jax.balance` for a run that is laid out like this."""
    if self.mode == 'fsdp':
      options['gramian'] = self._gramian
    return mimo_jax.balance(weighting, **options, axis_name=self.axis_name)

  def _gramian(self, jacobian: Any, objectives: Any) -> jax.Array:
    """The Gramian of gradients that are divided like the parameters.

    Each device takes that of its own parts, and K x K numbers are added up: no
    gradient is put together.
    """
    gradients = [jacobian[name] for name in objectives]
    specs = jax.tree.map(self._spec, gradients[0])
    # What is whole on each of N devices is in the sum N times: N products of
    # gradients divided by √N are one product.
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
    """Along which axis an array of the state is divided, if it is."""
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
    """Waits for each call's end where several at a time may block each other.

    XLA runs all CPU devices of a process on one pool of threads, and a
    collective holds a thread for each of them until all have come to it. Of two
    programs under way each may hold what the other waits for, for ever.
    """
    platform = self.mesh.devices.flat[0].platform
    if self.num_devices == 1 or platform != 'cpu':
      return function

    @functools.wraps(function)
    def waiting(*arguments: Any) -> Any:
      return jax.block_until_ready(function(*arguments))

    return waiting


def make(mode: str, devices: Sequence[jax.Device] | None = None) -> Placement:
  """The placement of a mode.

  Args:
    mode: `config.parallel`.
    devices: on which; all of them by default. 'single' takes the first.

  Returns:
    The placement.

  Raises:
    ValueError: if there is no such mode, or it does not run in several
      processes.

  Examples:
    >>> make('fdsp')
    Traceback (most recent call last):
    ValueError: config.parallel is 'fdsp'; expected one of ('single', 'pmap', \
'jit', 'fsdp').
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
