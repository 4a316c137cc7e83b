"""Programs of many runs: all seeds of one variant or of several.

Each function of a run is under `vmap`, and the runs are divided among the
devices.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import program
from experiments.core import rehearsals
from experiments.core import training
from experiments.evaluation import evaluate

# Batches of more bytes are not gathered for a loop inside a program.
_MOST_BYTES = 1 << 28

Values = Mapping[str, Any]  # dotted key of the configuration -> value


class _Run(NamedTuple):
  """One run of several."""

  values: dict[str, jax.Array]  # key -> [], of the traced ones
  state: training.TrainState


# Along which axes of the runs an argument of a program changes.
_RUNS, _SEEDS, _VARIANTS, _SAME = (
  ('variants', 'seeds'), ('seeds',), ('variants',), (),
)  # fmt: skip


def together(
  config: config_dict.ConfigDict,
  num_seeds: int,
  steps_per_epoch: int,
  variants: Sequence[Values] = ({},),
) -> program.Program:
  """The program of all seeds of some variants.

  Args:
    config: of each run, but for what the variants change. Run `s` of a variant
      is the run of `alone` with the seed `config.seed + s`, to rounding.
    num_seeds: how many seeds.
    steps_per_epoch: steps in which the training rows are seen once.
    variants: values of floats, the same keys in each; several have a leading
      axis [variants] before [seeds] in every array of the state.

  Returns:
    The program. The runs are divided among the devices; where that is uneven,
    the last variant or seed is trained more than once. They are saved without
    what fills up, so any number of devices can go on.
  """
  check_single(config)
  several = len(variants) > 1
  rows, columns = _layout(len(variants), num_seeds, jax.device_count())
  mesh = Mesh(
    np.array(jax.devices()[: rows * columns]).reshape(rows, columns), _RUNS
  )
  place_of_variants = _filled(len(variants), rows)
  place_of_seeds = _filled(num_seeds, columns)
  traced = {
    key: np.array([variants[i][key] for i in place_of_variants], np.float32)
    for key in (variants[0] if several else ())
  }
  if not several:
    config = configuration.with_values(config, variants[0])
  sizes = {
    'seeds': len(place_of_seeds) // columns,
    **({'variants': len(place_of_variants) // rows} if several else {}),
  }

  def spec(axes: Sequence[str]) -> PartitionSpec:
    return PartitionSpec(*(axis for axis in axes if axis in sizes))

  def on_devices(of_runs: Callable[..., Any], *axes: Sequence[str]) -> Any:
    if mesh.size == 1:
      return of_runs
    return jax.shard_map(
      of_runs,
      mesh=mesh,
      in_specs=tuple(map(spec, axes)),
      out_specs=spec(_RUNS),
      check_vma=False,  # methods make constants, which are on all devices
    )

  def over_runs(function: Callable[..., Any], *axes: Sequence[str]) -> Any:
    """The function of one run, for all of them; each device has its part."""
    for name, size in sizes.items():
      function = jax.vmap(
        function,
        in_axes=[0 if name in each else None for each in axes],
        axis_size=size,
      )
    return on_devices(function, *axes)

  def experiment_of(values: Values) -> training.Experiment:
    changed = configuration.with_values(config, values)
    return training.make(changed, steps_per_epoch)

  experiment = experiment_of({})

  def init(values: dict[str, jax.Array], keys: jax.Array, batch: Any) -> _Run:
    # One by one: random numbers under vmap take long to compile.
    def of_variant(one: dict[str, jax.Array]) -> _Run:
      return lax.map(
        lambda seed: _Run(one, experiment_of(one).init(*seed)), (keys, batch)
      )

    if not several:
      return of_variant({})
    return lax.map(of_variant, values)

  def train_step(run: _Run, batch: Any) -> tuple[_Run, Any]:
    state, metrics = experiment_of(run.values).train_step(run.state, batch)
    return run._replace(state=state), metrics

  def predict(run: _Run, batch: Any, condition: Any, index: Any) -> Any:
    of_model = program.make_predict(config, experiment_of(run.values))
    return of_model(run.state.variables, batch, condition, index)

  shape = (len(variants), num_seeds) if several else (num_seeds,)
  wanted = np.ix_(*map(range, shape))
  filled = np.ix_(
    *([place_of_variants, place_of_seeds] if several else [place_of_seeds])
  )

  def runs_of(tree: Any) -> Any:
    state = tree.state if isinstance(tree, _Run) else tree
    return jax.tree.map(
      lambda leaf: leaf[wanted].reshape(-1, *leaf.shape[len(shape) :]), state
    )

  keys = jnp.stack(
    [jax.random.key(config.seed + i) for i in range(len(place_of_seeds))]
  )
  init_all = jax.jit(on_devices(init, _VARIANTS, _SEEDS, _SEEDS))
  predict_all = over_runs(predict, _RUNS, _SEEDS, _SAME, _SAME)

  def save(run: _Run) -> Any:
    # NumPy's: they are the same on any number of devices.
    def saved(leaf: jax.Array) -> Any:
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      return np.asarray(leaf)[wanted]

    return jax.tree.map(saved, run.state)

  def restore(saved: Any, batch: Any) -> _Run:
    like = jax.eval_shape(init_all, traced, keys, batch)
    where = NamedSharding(mesh, spec(_RUNS))

    def restored(leaf: Any, like: Any) -> jax.Array:
      leaf = np.asarray(leaf)[filled]
      if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        leaf = jax.random.wrap_key_data(leaf)
      return jax.device_put(leaf, where)

    values = {
      key: jax.device_put(
        np.broadcast_to(value[:, None], (len(value), len(place_of_seeds))),
        where,
      )
      for key, value in traced.items()
    }
    return _Run(values, jax.tree.map(restored, saved, like.state))

  def shapes(batch: Any) -> Any:
    def saved(leaf: Any) -> jax.ShapeDtypeStruct:
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
      rest = leaf.shape[len(shape) :]
      return jax.ShapeDtypeStruct((*shape, *rest), leaf.dtype)

    like = jax.eval_shape(init_all, traced, keys, batch)
    return jax.tree.map(saved, like.state)

  def join(batches: Sequence[Any]) -> Any:
    return program.stack([batches[i] for i in place_of_seeds])

  modalities = sorted(config.model.encoders)

  def evaluation(
    inputs: Sequence[data.Data], split: str
  ) -> Iterator[dict[str, Any]]:
    """Batches whose inputs are [seeds], and targets and mask [runs]."""
    for batches in zip(*(one.evaluation(split) for one in inputs), strict=True):
      joined = join([evaluate.model_inputs(b, modalities) for b in batches])
      for name in ('mask', config.target):
        joined[name] = np.stack([b[name] for b in batches] * len(variants))
      yield joined

  feed, advance = _stepper(
    over_runs(train_step, _RUNS, _SEEDS),
    join,
    NamedSharding(mesh, spec(_SEEDS)),
    config.donate_state,
  )

  def advance_all(run: _Run, batches: Any) -> Any:
    run, metrics, seconds = advance(run, batches)
    metrics = jax.tree.map(
      lambda leaf: leaf[:, *wanted].reshape(len(leaf), -1), metrics
    )
    return run, metrics, seconds

  return program.Program(
    num_runs=len(variants) * num_seeds,
    init=lambda batch: init_all(traced, keys, batch),
    join=join,
    feed=feed,
    advance=advance_all,
    rehearsals=rehearsals.Rehearsals(
      _rehearsing(experiment, experiment_of, over_runs), join
    ),
    predict=jax.jit(lambda *arguments: runs_of(predict_all(*arguments))),
    evaluation=evaluation,
    shapes=shapes,
    save=save,
    restore=restore,
    runs_of=runs_of,
    layout=(tuple(place_of_seeds), columns),
  )


def check_single(config: config_dict.ConfigDict) -> None:
  """Refuses to divide each of several runs among the devices.

  Raises:
    ValueError: if `config.parallel` is not 'single'.
  """
  if config.parallel != 'single':
    raise ValueError(
      f'config.parallel is {config.parallel!r}, which divides a single run;'
      " several runs are spread over the devices whole. Expected 'single'."
    )


def _stepper(
  train_step: Callable[..., Any],
  join: Callable[[Sequence[Any]], Any],
  where: NamedSharding,
  donate: bool,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """How several runs take steps: `feed` and `advance` of a program.

  Steps are taken from the host, or by a loop (`lax.scan`) inside the program.
  The loop saves what it takes to start a program: dear on accelerators, and
  with networks so small that a step takes a millisecond. XLA's convolutions are
  slow inside of loops on CPUs, three times on the CREMA-D sample, so there such
  steps are taken from the host, as those are whose batches are large.
  """
  donated = (0,) if donate else ()
  step = jax.jit(train_step, donate_argnums=donated)
  loop = jax.jit(
    lambda state, *batches: lax.scan(
      train_step, state, jax.tree.map(lambda *leaf: jnp.stack(leaf), *batches)
    ),
    donate_argnums=donated,
  )
  # Number of batches -> the loop over them; 0 -> the step, taken from the host.
  compiled: dict[int, Callable[..., Any]] = {}

  def put(batch: Any) -> Any:
    return jax.device_put(batch, where if where.mesh.size > 1 else None)

  def feed(steps: Iterable[Sequence[Any]]) -> Any:
    # Waited for, or the first program's time would hold the transfer.
    return jax.block_until_ready([put(join(batches)) for batches in steps])

  def advance(state: Any, batches: Sequence[Any]) -> Any:
    number = len(batches)
    if 0 not in compiled and number not in compiled:
      traced = step.trace(state, batches[0])
      if _may_loop(traced.jaxpr, batches):
        compiled[number] = loop.lower(state, *batches).compile()
      else:
        compiled[0] = traced.lower().compile()
    if 0 in compiled:
      return program.one_by_one(compiled[0], state, batches)
    began = time.perf_counter()
    found = jax.block_until_ready(compiled[number](state, *batches))
    seconds = time.perf_counter() - began
    state, metrics = found
    return state, jax.device_get(metrics), seconds

  return feed, advance


def _may_loop(step: Any, batches: Sequence[Any]) -> bool:
  """Whether steps go into a loop of a program, for what `_stepper` says."""
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(list(batches)))
  is_on_cpu = jax.default_backend() == 'cpu'
  return num_bytes <= _MOST_BYTES and not (
    is_on_cpu and 'conv_general_dilated' in str(step)
  )


def _rehearsing(
  experiment: training.Experiment,
  experiment_of: Callable[[Values], training.Experiment],
  over_runs: Callable[..., Any],
) -> training.Experiment:
  """The experiment whose rehearsals are those of all runs."""
  if experiment.rehearsal is None:
    return experiment

  def of(run: _Run) -> Any:
    return experiment_of(run.values).rehearsal

  def begin(run: _Run, batch: Any) -> Any:
    return of(run).begin(run.state, batch)

  def step_of(i: int) -> Callable[..., Any]:
    def step(run: _Run, scratch: Any, batch: Any) -> Any:
      return of(run).passes[i].step(run.state, scratch, batch)

    return over_runs(step, _RUNS, _RUNS, _SEEDS)

  def end(run: _Run, scratch: Any) -> _Run:
    return run._replace(state=of(run).end(run.state, scratch))

  return experiment._replace(
    rehearsal=experiment.rehearsal._replace(
      begin=over_runs(begin, _RUNS, _SEEDS),
      passes=tuple(
        one._replace(step=step_of(i))
        for i, one in enumerate(experiment.rehearsal.passes)
      ),
      end=over_runs(end, _RUNS, _RUNS),
    )
  )


def _layout(
  num_variants: int, num_seeds: int, num_devices: int
) -> tuple[int, int]:
  """Rows and columns of devices that have the fewest runs each.

  Of equal ones the smallest, and of these the one that shares batches.

  Examples:
    >>> _layout(4, 4, 8), _layout(3, 4, 8), _layout(2, 1, 8)
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


def _filled(number: int, divisor: int) -> list[int]:
  """0 to number − 1, the last one repeated until it can be divided.

  Examples:
    >>> _filled(3, 2)
    [0, 1, 2, 2]
  """
  length = -(-number // divisor) * divisor
  return [min(i, number - 1) for i in range(length)]
