"""One configuration on one device or many, in one process or several.

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
devices of its own, run 'jit' and 'fsdp'.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

import mimo_jax

AXIS = 'device'
MODES = ('single', 'pmap', 'jit', 'fsdp')
# Arrays of fewer numbers are not worth dividing: every device has all of them.
_SMALL = 4096
# Seconds after which a process that is not heard of has failed, and after which
# one that has ended no longer waits for the others to end. Well below a minute,
# which is how long others may hang; a process that computes is heard of.
_HEARTBEAT, _SHUTDOWN = 30, 30
# Seconds in which all processes must have started.
_START = 40

Batch = Mapping[str, Any]


class Layout(NamedTuple):
  """How a run is laid out on devices."""

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


def make_layout(
  mode: str, devices: Sequence[jax.Device] | None = None
) -> Layout:
  """The layout of a mode.

  Args:
    mode: `config.parallel`.
    devices: on which; all of them by default. 'single' takes the first.

  Returns:
    The layout.

  Raises:
    ValueError: if there is no such mode, or it does not run in several
      processes.

  Examples:
    >>> make_layout('fdsp')
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
  return Layout(mode, Mesh(np.array(some), (AXIS,), axis_types=axis_types))


def check_batch_size(layout: Layout, batch_size: int) -> None:
  """Refuses batches that the devices cannot share evenly.

  Args:
    layout: of the run.
    batch_size: rows of all devices together, `config.data.batch_size`.

  Raises:
    ValueError: if the number of devices does not divide it.
  """
  if batch_size % layout.num_devices:
    raise ValueError(
      f'config.data.batch_size is {batch_size}, the rows of all devices'
      f' together, and config.parallel={layout.mode!r} divides them among'
      f' {layout.num_devices} devices; expected a multiple of that.'
    )


def state_shapes(
  layout: Layout, init: Callable[..., Any], *examples: Any
) -> Any:
  """What `init(*examples)` returns: shapes, and where each array lies.

  Args:
    layout: of the run.
    init: makes a state.
    *examples: what it takes, or shapes of it.

  Returns:
    For each array its shape, type and sharding (without one for 'single'): all
    of it on every device; under 'fsdp' a large one is divided along the longest
    of its axes that the number of devices divides.
  """
  shapes = jax.eval_shape(init, *examples)
  if layout.mode == 'single':
    return shapes

  def placed(leaf: Any) -> jax.ShapeDtypeStruct:
    where = NamedSharding(layout.mesh, _spec(layout, leaf))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  return jax.tree.map(placed, shapes)


def train_batch(layout: Layout, batch: Batch) -> Any:
  """A batch for the step, of the rows that each process has loaded.

  Args:
    layout: of the run.
    batch: this process's rows of it, on the host.

  Returns:
    Arrays over all devices; for 'single' and 'pmap', which take it from the
    host, the batch as it is.
  """
  if layout.mode in ('single', 'pmap'):
    return batch
  rows = NamedSharding(layout.mesh, PartitionSpec(AXIS))
  return {
    name: jax.make_array_from_process_local_data(rows, value)
    for name, value in batch.items()
  }


def whole_batch(layout: Layout, batch: Batch) -> Any:
  """A batch of which every process has loaded all rows.

  Args:
    layout: of the run.
    batch: arrays [rows, ...], on the host.

  Returns:
    Arrays over all devices: divided by rows if that is even, or else whole on
    each; for 'single' the batch as it is.
  """
  if layout.mode == 'single':
    return batch

  def place(value: Any) -> jax.Array:
    value = np.asarray(value)
    is_even = value.shape[0] % layout.num_devices == 0
    spec = PartitionSpec(AXIS) if is_even else PartitionSpec()
    return jax.make_array_from_callback(
      value.shape, NamedSharding(layout.mesh, spec), lambda part: value[part]
    )

  return {name: place(value) for name, value in batch.items()}


def compile_init(
  layout: Layout, init: Callable[..., Any], shapes: Any
) -> Callable[..., Any]:
  """Compiles what makes the first state, which then lies where it belongs.

  Args:
    layout: of the run.
    init: makes a state.
    shapes: of the state, as `state_shapes` says.

  Returns:
    The compiled function.
  """
  if layout.mode == 'single':
    return jax.jit(init)
  return jax.jit(init, out_shardings=_of(shapes))


def compile_step(
  layout: Layout,
  train_step: Callable[[Any, Any], Any],
  shapes: Any,
  donate: bool = True,
) -> Callable[[Any, Any], Any]:
  """Compiles a training step.

  Args:
    layout: of the run.
    train_step: `train_step(state, batch) -> (state, metrics)`, made for this
      layout.
    shapes: of the state, as `state_shapes` says.
    donate: whether the old state gives its memory to the new one, and cannot
      be read after the step.

  Returns:
    The compiled function, for batches of `train_batch`.
  """
  donated = (0,) if donate else ()
  if layout.mode == 'single':
    return jax.jit(train_step, donate_argnums=donated)
  if layout.mode != 'pmap':
    compiled = jax.jit(
      train_step,
      donate_argnums=donated,
      out_shardings=(_of(shapes), _everywhere(layout)),
    )
    return _one_at_a_time(layout, compiled)
  mapped = jax.pmap(
    train_step,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=None,
    donate_argnums=donated,
    devices=list(layout.mesh.devices.flat),
  )

  def step(state: Any, batch: Batch) -> Any:
    parts = {
      name: value.reshape((layout.num_devices, -1, *value.shape[1:]))
      for name, value in batch.items()
    }
    return mapped(state, parts)

  return _one_at_a_time(layout, step)


def put(layout: Layout, state: Any, shapes: Any) -> Any:
  """The state with every array where it belongs, wherever it was computed."""
  return (
    state if layout.mode == 'single' else jax.device_put(state, _of(shapes))
  )


def compile_predict(
  layout: Layout, predict: Callable[..., Any]
) -> Callable[..., Any]:
  """Compiles `predict(variables, batch, *others)`.

  Args:
    layout: of the run.
    predict: a pure function.

  Returns:
    The compiled function, for batches of which every process has all rows, and
    which gives every process all of what it returns.
  """
  if layout.mode == 'single':
    return jax.jit(predict)
  compiled = _one_at_a_time(
    layout, jax.jit(predict, out_shardings=_everywhere(layout))
  )
  given: Batch | None = None
  placed: Any = None

  def placing(variables: Any, batch: Batch, *others: Any) -> Any:
    nonlocal given, placed
    if batch is not given:  # one batch comes once for each condition
      given, placed = batch, whole_batch(layout, batch)
    return compiled(variables, placed, *others)

  return placing


def gathered(layout: Layout, tree: Any) -> Any:
  """What the step computes with: under 'fsdp', divided arrays put together.

  Inside the compiled step. Without it XLA would divide the model's matrix
  products rather than the batch, and exchange activations.
  """
  if layout.mode != 'fsdp':
    return tree
  return lax.with_sharding_constraint(tree, _everywhere(layout))


def balance(
  layout: Layout, weighting: mimo_jax.Weighting, **options: Any
) -> optax.GradientTransformationExtraArgs:
  """`mimo_jax.balance` for a layout.

  Under 'fsdp' the gradients of a rule that needs their Gramian are divided like
  the parameters. Each device takes the Gramian of its own parts, K x K numbers
  are added up, and the update is combined where it is needed: no gradient is
  put together. Other rules are compiled as they are. Those that need the whole
  Jacobian may gather it.

  Args:
    layout: of the run.
    weighting: the rule.
    **options: arguments of `mimo_jax.balance`.

  Returns:
    The gradient transformation.
  """
  options['axis_name'] = layout.axis_name
  plain = mimo_jax.balance(weighting, **options)
  if layout.mode != 'fsdp' or weighting.needs != 'gramian':
    return plain

  def weigh(observation: mimo_jax.Observation, state: Any) -> tuple[Any, Any]:
    gramian = lax.psum(observation.gramian, AXIS)
    weights, state = weighting.update(
      observation._replace(gramian=gramian), state
    )
    # On all devices, whichever of them has the number that is not finite.
    good = jnp.all(jnp.isfinite(gramian))
    return jnp.where(good, weights, jnp.nan), state

  local = mimo_jax.balance(weighting._replace(update=weigh), **options)

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    losses: Mapping[str, jax.Array],
    **extra_args: Any,
  ) -> tuple[Any, Any]:
    del params, extra_args
    gradients = mimo_jax.pull_jacobian(updates, losses)
    specs = jax.tree.map(
      functools.partial(_spec, layout), next(iter(gradients.values()))
    )
    # What is whole on each of N devices is in the sum N times: N products of
    # gradients divided by √N are one product.
    factors = jax.tree.map(
      lambda spec: 1.0 if AXIS in spec else layout.num_devices**-0.5,
      specs,
      is_leaf=lambda spec: isinstance(spec, PartitionSpec),
    )

    def of_parts(gradients: Any, state: Any, losses: Any) -> tuple[Any, Any]:
      scaled = {
        name: jax.tree.map(jnp.multiply, gradient, factors)
        for name, gradient in gradients.items()
      }
      updates, state = local.update(scaled, state, losses=losses)
      return jax.tree.map(jnp.divide, updates, factors), state

    everywhere = PartitionSpec()
    return jax.shard_map(
      of_parts,
      mesh=layout.mesh,
      in_specs=(dict.fromkeys(gradients, specs), everywhere, everywhere),
      out_specs=(specs, everywhere),
      check_vma=False,
    )(gradients, state, losses)

  return optax.GradientTransformationExtraArgs(plain.init, update)


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
  """Lets the other processes wait until the first has done the same.

  For what it leaves on a disk that they share: a prepared data set.
  """
  if jax.process_index() > 0:
    multihost_utils.sync_global_devices('first process first')
  yield
  if jax.process_index() == 0 and jax.process_count() > 1:
    multihost_utils.sync_global_devices('first process first')


@contextlib.contextmanager
def processes(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
  """Connects this process with the others of a run, if there are others.

  Where one fails all others end, too: at once if they wait for its numbers, or
  when it has not been heard of for half a minute.

  Args:
    coordinator: address and port of process 0, the same for all; 'auto' where
      JAX finds the processes by itself (Slurm, Open MPI, TPU pods); None if
      there is this one alone.
    num_processes: how many there are; None with 'auto'.
    process_id: which one this is, from 0; None with 'auto'.

  Yields:
    Nothing.

  Raises:
    ValueError: if some of the arguments are missing.
  """
  numbers = (num_processes, process_id)
  if coordinator is None and numbers == (None, None):
    yield
    return
  if coordinator is None or (coordinator != 'auto' and None in numbers):
    raise ValueError(
      f'Given --coordinator={coordinator}, --num_processes={num_processes} and'
      f' --process_id={process_id}; expected all three, or --coordinator=auto'
      ' alone, or none of them for a single process.'
    )
  print(
    'Waiting for all processes to connect with the first'
    f' ({coordinator}), {_START} seconds at most.',
    file=sys.stderr,
    flush=True,
  )
  jax.distributed.initialize(
    None if coordinator == 'auto' else coordinator,
    num_processes,
    process_id,
    initialization_timeout=_START,
    heartbeat_timeout_seconds=_HEARTBEAT,
    shutdown_timeout_seconds=_SHUTDOWN,
  )
  try:
    yield
  except Exception as error:
    message = (
      f'Process {jax.process_index()} of {jax.process_count()} stops with'
      f' {type(error).__name__}: {error}'
    )
    if isinstance(error, jax.errors.JaxRuntimeError):
      message += (
        '\nIf that is a broken connection, another process has failed, and its'
        ' own output says why.'
      )
    print(
      f'{message}\nGiven again for all processes, the same commands go on from'
      ' the last checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    # Not by the interpreter's exit, which waits for the others to end, while
    # they wait for this one.
    os._exit(1)
  jax.distributed.shutdown()


def _everywhere(layout: Layout) -> NamedSharding:
  return NamedSharding(layout.mesh, PartitionSpec())


def _one_at_a_time(
  layout: Layout, function: Callable[..., Any]
) -> Callable[..., Any]:
  """Waits for each call's end where several at a time may block each other.

  XLA runs all CPU devices of a process on one pool of threads, and a collective
  holds a thread for each of them until all have come to it. Of two programs
  under way each may hold what the other waits for, for ever.
  """
  if layout.num_devices == 1 or layout.mesh.devices.flat[0].platform != 'cpu':
    return function

  @functools.wraps(function)
  def waiting(*arguments: Any) -> Any:
    return jax.block_until_ready(function(*arguments))

  return waiting


def _of(shapes: Any) -> Any:
  """The shardings of arrays, or of shapes that have them."""
  return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def _spec(layout: Layout, leaf: Any) -> PartitionSpec:
  """Along which axis an array of the state is divided, if it is."""
  even = [
    axis
    for axis, size in enumerate(leaf.shape)
    if size % layout.num_devices == 0
  ]
  if layout.mode != 'fsdp' or leaf.size < _SMALL or not even:
    return PartitionSpec()
  longest = max(even, key=lambda axis: leaf.shape[axis])
  return PartitionSpec(*[None] * longest, AXIS)
