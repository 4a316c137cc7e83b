"""Trains a model with many values of its configuration, over seeds.

  python -m experiments.sweep \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      --grid=weighting.penalty=0.3,1,3 --grid=weighting.temperature=0.1,0.3,1 \
      [--random=optimizer.learning_rate=log:1e-3:1e-1] \
      [--config.sweep.num_samples=16] [--config.num_seeds=4] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

Runs that differ in seed and in floats of the computation alone (a penalty, a
temperature, a learning rate) are one compiled program: the training step of
`experiments.train` under `vmap`, spread over the devices. Any other value, a
name, a width, one of `data`, takes a program for each. Every combination sees
the same batches and starts from the same parameters, seed by seed. The
directory ends up with `results.jsonl`, `sweep.md` and, where two floats make
the grid, `heatmap.png`. A sweep that was killed goes on from its last
checkpoint. To train one of its models alone, give `experiments.train` the
values of its row.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import rehearsals
from experiments.core import runs
from experiments.core import search_space
from experiments.core import training
from experiments.evaluation import evaluate
from experiments.reporting import report
from experiments.reporting import results as results_lib

_GRID = flags.DEFINE_multi_string(
  'grid',
  [],
  'A key of the configuration and the values to try of it, such as'
  ' weighting.penalty=0.3,1,3. Give it again for another key: all combinations'
  ' are tried.',
)
_RANDOM = flags.DEFINE_multi_string(
  'random',
  [],
  'A key of the configuration and what to draw config.sweep.num_samples values'
  ' from, such as optimizer.learning_rate=log:1e-3:1e-1 (or linear:low:high, or'
  ' value,value,...).',
)

Values = Mapping[str, Any]  # dotted key of the configuration -> value


class Group(NamedTuple):
  """Combinations whose runs are one program."""

  config: config_dict.ConfigDict  # of the first of them
  traced: tuple[str, ...]  # keys in whose values alone they differ
  members: tuple[int, ...]  # places in the list of all combinations


class _Run(NamedTuple):
  """One run: leading axes [values, seeds] in a program."""

  values: dict[str, jax.Array]  # key -> [], of the traced ones
  state: training.TrainState


class _Axis(NamedTuple):
  """How an argument of a program takes part in its runs."""

  values: int | None  # where vmap over values maps
  seeds: int | None
  spec: PartitionSpec  # over devices


_VALUES = _Axis(0, None, PartitionSpec('values'))
_SEEDS = _Axis(None, 0, PartitionSpec('seeds'))
_RUNS = _Axis(0, 0, PartitionSpec('values', 'seeds'))
_SAME = _Axis(None, None, PartitionSpec())


class _Program(NamedTuple):
  """A group's runs on all devices: [values, seeds], filled up to divide."""

  init: Callable[..., Any]  # (keys, batch) -> runs
  train_steps: Callable[..., Any]  # (runs, batches) -> runs, fused losses
  predict: evaluate.Predict  # of [values * seeds], not filled up
  rehearsals: rehearsals.Rehearsals
  join: rehearsals.Join  # batches of each seed -> batch of all
  to_save: Callable[[_Run], Any]  # without what fills up
  restored: Callable[[Any, _Run], _Run]  # (saved, as of `init`) -> runs
  num_seeds: int  # filled up


def sweep(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Trains and evaluates all runs of a sweep, or finishes doing so.

  Args:
    config: with `sweep`, see `search_space.combinations`. Run `s` of a
      combination is the run of `experiments.train` with its values and the seed
      `config.seed + s`, to rounding, for `s` below `config.num_seeds`.
    workdir: the sweep's directory.
    manual_dir: the folder with the data set's downloaded files; needed when
      the data set is prepared, and not after.

  Returns:
    The path of the table.

  Raises:
    ValueError: if `workdir` holds another sweep, a combination is wrong, or
      each run is to be on many devices.
  """
  if config.get('parallel', 'single') != 'single':
    raise ValueError(
      f'config.parallel is {config.parallel!r}, which divides a single run; a'
      " sweep divides its runs among the devices. Expected 'single'."
    )
  combinations = search_space.combinations(config)
  for values in combinations:
    _check(config, values)
  workdir = runs.open_workdir(workdir, config)
  path = workdir / 'results.jsonl'
  if not path.exists():
    rows: dict[int, list[dict[str, Any]]] = {}
    traced = []
    number = 0
    for shared in _with_same_data(config, combinations):
      first = search_space.with_values(config, combinations[shared[0]])
      inputs = [
        data.open_data(first, config.seed + i, manual_dir)
        for i in range(config.num_seeds)
      ]
      for group in groups(config, combinations, shared, inputs[0]):
        number += 1
        traced.append({'keys': group.traced, 'members': group.members})
        of_group = _results(
          group,
          [combinations[i] for i in group.members],
          inputs,
          workdir / 'programs' / f'{number}',
        )
        rows |= dict(zip(group.members, of_group, strict=True))
      for one in inputs:
        one.train.close()
    header = runs.header(config) | {
      'format': results_lib.FORMAT,
      'kind': 'sweep',
      'modalities': sorted(config.model.encoders),
      'metrics': list(config.evaluation.metrics),
      'programs': traced,
    }
    runs.write_lines(
      path,
      [
        header,
        *(
          _of_split(config, row, split)
          for i in sorted(rows)
          for split in ('validation', 'test')
          for row in rows[i]
        ),
      ],
    )
  return report.write(workdir)


def _of_split(
  config: config_dict.ConfigDict, row: Mapping[str, Any], split: str
) -> dict[str, Any]:
  """The row of one run and one split."""
  metric = config.evaluation.metrics[0]
  return {
    'variant': search_space.label(row['values']),
    'values': row['values'],
    'seed': row['seed'],
    'split': split,
    'skipped_steps': row['skipped_steps'],
  } | {f'{metric}/{name}': score for name, score in row[split].items()}


def groups(
  config: config_dict.ConfigDict,
  combinations: Sequence[Values],
  members: Iterable[int],
  inputs: data.Data,
) -> list[Group]:
  """Groups combinations that can be one program.

  A key is traced if all its values are floats, it is none of `data`, and the
  experiment can be built and traced with unknowns in their place. All others
  must agree within a group.

  Args:
    config: of the sweep.
    combinations: all of them.
    members: places of those to group, which have the same data.
    inputs: their data, for the shapes of batches.

  Returns:
    The groups, in the order of their first combinations.
  """
  members = list(members)
  floats = [
    key
    for key in combinations[0]
    if not key.startswith('data.')
    and all(isinstance(combinations[i][key], float) for i in members)
  ]
  found = []
  for same in _partition(combinations, members, floats):
    first = search_space.with_values(config, combinations[same[0]])
    traced = _traceable(first, floats, inputs)
    found += [
      Group(
        search_space.with_values(config, combinations[part[0]]),
        traced,
        tuple(part),
      )
      for part in _partition(combinations, same, traced)
    ]
  return found


def _with_same_data(
  config: config_dict.ConfigDict, combinations: Sequence[Values]
) -> list[list[int]]:
  """Places of combinations, grouped by what `data.open_data` reads."""
  found: dict[str, list[int]] = {}
  for i, values in enumerate(combinations):
    one = search_space.with_values(config, values)
    parts = (one.data.to_dict(), one.target, sorted(one.model.encoders))
    found.setdefault(json.dumps(parts), []).append(i)
  return list(found.values())


def _partition(
  combinations: Sequence[Values], members: Iterable[int], free: Sequence[str]
) -> list[list[int]]:
  """Groups combinations that agree in all keys but the free ones."""
  found: dict[str, list[int]] = {}
  for i in members:
    fixed = {k: v for k, v in combinations[i].items() if k not in free}
    found.setdefault(json.dumps(fixed, sort_keys=True), []).append(i)
  return list(found.values())


def _traceable(
  config: config_dict.ConfigDict, keys: Sequence[str], inputs: data.Data
) -> tuple[str, ...]:
  """Those of the keys whose values may be unknown when it is compiled."""
  experiment = training.make(config, inputs.steps_per_epoch)
  place = inputs.train.get_state()
  batches = {'train': next(inputs.train)}
  inputs.train.set_state(place)
  if experiment.rehearsal is not None:
    for walk in experiment.rehearsal.passes:
      if walk.split not in batches:
        batches[walk.split] = next(iter(inputs.evaluation(walk.split)))

  def everything(values: Values, batches: Mapping[str, Any]) -> Any:
    traced = search_space.with_values(config, values)
    experiment = training.make(traced, inputs.steps_per_epoch)
    batch = batches['train']
    state = experiment.init(jax.random.key(0), batch)
    # As in training, where the state must keep its types: a float that is
    # unknown is a float32, where a known one takes the type of what it meets.
    state, _ = lax.scan(
      experiment.train_step, state, jax.tree.map(lambda x: x[None], batch)
    )
    if rehearsal := experiment.rehearsal:
      lengths = [one.epochs for one in rehearsal.passes]
      if any(
        isinstance(number, jax.core.Tracer)
        for number in (rehearsal.every_epochs, *lengths)
      ):
        raise TypeError('The runner must know how far a rehearsal goes.')
      scratch = rehearsal.begin(state, batch)
      for walk in rehearsal.passes:
        scratch = walk.step(state, scratch, batches[walk.split])
      state = rehearsal.end(state, scratch)
    return state

  def is_traceable(some: Sequence[str]) -> bool:
    values = {key: jax.ShapeDtypeStruct((), jnp.float32) for key in some}
    try:
      jax.eval_shape(everything, values, batches)
    except Exception:  # whatever a function says of a value that it must know
      return False
    return True

  if not keys or is_traceable(keys):
    return tuple(keys)
  return tuple(key for key in keys if is_traceable([key]))


def _check(config: config_dict.ConfigDict, values: Values) -> None:
  """Refuses values that what they are given to refuses."""
  try:
    # Checks of values cannot see traced ones.
    training.make(search_space.with_values(config, values), steps_per_epoch=1)
  except ValueError as error:
    raise ValueError(f'With {search_space.label(values)}: {error}') from error


def _results(
  group: Group,
  values: Sequence[Values],
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
) -> list[list[dict[str, Any]]]:
  """The rows of results of a group: for each combination one a seed."""
  path = directory / 'results.jsonl'
  if path.exists():
    _, *flat = runs.read_lines(path)
  else:
    directory.mkdir(parents=True, exist_ok=True)
    program = _make(group, values, len(inputs), inputs[0].steps_per_epoch)
    run = _train(group.config, program, inputs, directory)
    flat = _evaluate(group.config, program, values, inputs, run)
    runs.write_lines(path, [runs.header(group.config), *flat])
  number = len(inputs)
  return [flat[i : i + number] for i in range(0, len(flat), number)]


def _train(
  config: config_dict.ConfigDict,
  program: _Program,
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
) -> _Run:
  """Trains all runs of a program, or finishes doing so."""
  header = runs.header(config)
  _set_place(inputs, 0)
  first = program.join([next(one.train) for one in inputs])
  keys = jnp.stack(
    [jax.random.key(config.seed + i) for i in range(program.num_seeds)]
  )
  start = 0
  run = program.init(keys, first)
  checkpoints = runs.Checkpoints(directory)
  like = jax.eval_shape(lambda saved: saved, program.to_save(run))
  restored = checkpoints.restore(like)
  if restored is not None:
    saved, progress = restored
    run = program.restored(saved, run)
    runs.warn_of_changes(progress['header'], header)
    start, header = progress['step'], progress['header']
  _set_place(inputs, start)
  every = config.checkpoint_every_steps
  with tqdm.tqdm(
    initial=start,
    total=config.steps,
    desc=f'program {directory.name}',
    unit='step',
    mininterval=0.5,
  ) as progress_bar:
    for begin in range(start, config.steps, config.log_every_steps):
      end = min(begin + config.log_every_steps, config.steps)
      # Arrays [seeds, steps, ...].
      batches = program.join(
        [_stack([next(one.train) for _ in range(begin, end)]) for one in inputs]
      )
      due = program.rehearsals.is_due
      cuts = [begin, *filter(due, range(begin + 1, end)), end]
      for low, high in itertools.pairwise(cuts):
        if due(low):
          run, _ = program.rehearsals.run(run, inputs, low)
        part = slice(low - begin, high - begin)
        run, losses = program.train_steps(
          run, {key: leaf[:, part] for key, leaf in batches.items()}
        )
      progress_bar.set_postfix_str(
        f'fused loss {float(jnp.mean(losses)):.3f}', refresh=False
      )
      progress_bar.update(end - begin)
      if begin // every < end // every or end == config.steps:
        checkpoints.save(
          end, program.to_save(run), {'step': end, 'header': header}
        )
  checkpoints.close()
  return run


def _evaluate(
  config: config_dict.ConfigDict,
  program: _Program,
  values: Sequence[Values],
  inputs: Sequence[data.Data],
  run: _Run,
) -> list[dict[str, Any]]:
  """Scores of all runs, values first."""
  metric = config.evaluation.metrics[0]
  scores = {
    split: evaluate.evaluate(
      program.predict,
      run,
      _evaluation_batches(config, program, len(values), inputs, split),
      modalities=sorted(config.model.encoders),
      metrics=[metric],
      thorough=False,
      target=config.target,
    )
    for split in ('validation', 'test')
  }
  skipped = np.asarray(optax.tree.get(run.state.opt_state, 'total_notfinite'))
  number = len(inputs)
  return [
    {
      'values': dict(values[i]),
      'seed': config.seed + j,
      'skipped_steps': int(skipped[i, j]),
    }
    | {
      split: {
        name.removeprefix(f'{metric}/'): float(scores_[i * number + j])
        for name, scores_ in of_split.items()
      }
      for split, of_split in scores.items()
    }
    for i in range(len(values))
    for j in range(number)
  ]


def _evaluation_batches(
  config: config_dict.ConfigDict,
  program: _Program,
  num_values: int,
  inputs: Sequence[data.Data],
  split: str,
) -> Iterator[dict[str, Any]]:
  """Batches whose inputs are [seeds, ...], and targets and mask [runs, ...]."""
  modalities = sorted(config.model.encoders)
  for batches in zip(*(one.evaluation(split) for one in inputs), strict=True):
    joined = program.join(
      [evaluate.model_inputs(batch, modalities) for batch in batches]
    )
    for name in ('mask', config.target):
      joined[name] = np.stack([b[name] for b in batches] * num_values)
    yield joined


def _make(
  group: Group, values: Sequence[Values], num_seeds: int, steps_per_epoch: int
) -> _Program:
  """The program of a group, not compiled yet."""
  config = group.config
  num_values = len(values)
  rows, columns = _layout(num_values, num_seeds, jax.device_count())
  mesh = Mesh(
    np.array(jax.devices()[: rows * columns]).reshape(rows, columns),
    ('values', 'seeds'),
  )
  # What fills up repeats the last ones.
  place_of_values = _filled(num_values, rows)
  place_of_seeds = _filled(num_seeds, columns)
  traced = {
    key: np.array([values[i][key] for i in place_of_values], np.float32)
    for key in group.traced
  }

  def over_devices(of_runs: Callable[..., Any], *axes: _Axis) -> Any:
    return jax.shard_map(
      of_runs,
      mesh=mesh,
      in_specs=tuple(axis.spec for axis in axes),
      out_specs=_RUNS.spec,
      check_vma=False,  # methods make constants, which are on all devices
    )

  def over_runs(function: Callable[..., Any], *axes: _Axis) -> Any:
    """The function of one run, for all of them; each device has its part."""
    seeds = jax.vmap(
      function,
      in_axes=[axis.seeds for axis in axes],
      axis_size=len(place_of_seeds) // columns,
    )
    all_runs = jax.vmap(
      seeds,
      in_axes=[axis.values for axis in axes],
      axis_size=len(place_of_values) // rows,
    )
    return over_devices(all_runs, *axes)

  def experiment_of(values: Values) -> training.Experiment:
    return training.make(
      search_space.with_values(config, values), steps_per_epoch
    )

  def init(values: dict[str, jax.Array], keys: jax.Array, batch: Any) -> _Run:
    # One by one: random numbers under vmap take long to compile.
    def of_values(some: tuple[dict[str, jax.Array], jax.Array]) -> _Run:
      one, _ = some
      return lax.map(
        lambda seed: _Run(one, experiment_of(one).init(*seed)), (keys, batch)
      )

    return lax.map(
      of_values, (values, jnp.arange(len(place_of_values) // rows))
    )

  def train_steps(run: _Run, batches: Any) -> tuple[_Run, jax.Array]:
    state, metrics = lax.scan(
      experiment_of(run.values).train_step, run.state, batches
    )
    return run._replace(state=state), metrics['losses']['fused']

  def predict(run: _Run, batch: Any, condition: Any, index: Any) -> Any:
    of_model = evaluate.make_predict(
      experiment_of(run.values).model,
      config.evaluation.noise_scale.to_dict(),
      data.finish(config),
    )
    return of_model(run.state.variables, batch, condition, index)

  def wanted(leaf: Any) -> Any:
    return leaf[:num_values, :num_seeds]

  @jax.jit
  def predict_all(run: _Run, batch: Any, condition: Any, index: Any) -> Any:
    outputs = over_runs(predict, _RUNS, _SEEDS, _SAME, _SAME)(
      run, batch, condition, index
    )
    return jax.tree.map(
      lambda leaf: wanted(leaf).reshape(-1, *leaf.shape[2:]), outputs
    )

  def to_save(run: _Run) -> Any:
    # NumPy's: they are the same on any number of devices.
    return jax.tree.map(
      lambda leaf: wanted(np.asarray(_without_key_type(leaf))), run.state
    )

  def restored(saved: Any, like: _Run) -> _Run:
    def leaf_of(leaf: Any, like: jax.Array) -> jax.Array:
      leaf = np.asarray(leaf)[place_of_values][:, place_of_seeds]
      if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        leaf = jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))
      return jax.device_put(leaf, like.sharding)

    return like._replace(state=jax.tree.map(leaf_of, saved, like.state))

  def join(batches: Sequence[Any]) -> Any:
    return _stack([batches[i] for i in place_of_seeds])

  init_all = jax.jit(over_devices(init, _VALUES, _SEEDS, _SEEDS))
  return _Program(
    init=lambda keys, batch: init_all(traced, keys, batch),
    train_steps=jax.jit(
      over_runs(train_steps, _RUNS, _SEEDS),
      donate_argnums=(0,) if config.donate_state else (),
    ),
    predict=predict_all,
    rehearsals=rehearsals.Rehearsals(
      _rehearsing(experiment_of, over_runs), jax.jit, join
    ),
    join=join,
    to_save=to_save,
    restored=restored,
    num_seeds=len(place_of_seeds),
  )


def _rehearsing(
  experiment_of: Callable[[Values], training.Experiment],
  over_runs: Callable[..., Any],
) -> training.Experiment:
  """The experiment whose rehearsals are those of all runs."""
  experiment = experiment_of({})  # says when, and how far
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
  num_values: int, num_seeds: int, num_devices: int
) -> tuple[int, int]:
  """Rows and columns of devices that have the fewest runs each.

  Of equal ones the smallest, and of these the one that shares batches.

  Examples:
    >>> _layout(4, 4, 8), _layout(3, 4, 8), _layout(2, 1, 8)
    ((4, 2), (3, 2), (2, 1))
  """

  def cost(shape: tuple[int, int]) -> tuple[int, int, int]:
    rows, columns = shape
    runs_each = -(-num_values // rows) * -(-num_seeds // columns)
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


def _without_key_type(leaf: jax.Array) -> jax.Array:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


def _set_place(inputs: Iterable[data.Data], step: int) -> None:
  for one in inputs:
    one.train.set_state(one.train.get_state() | {'next_batch': step})


def _stack(trees: Sequence[Any]) -> Any:
  """Stacks NumPy batches along a new leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def main(argv: list[str]) -> None:
  """Sweeps, and prints the table."""
  del argv
  config = search_space.with_flags(
    configuration.CONFIG.value, _GRID.value, _RANDOM.value
  )
  workdir = pathlib.Path(
    configuration.WORKDIR.value or runs.default_workdir('sweep', config)
  )
  path = sweep(config, workdir, configuration.MANUAL_DIR.value)
  print(path.read_text())
  print(f'This table is {path}; results.jsonl beside it has every run.')


if __name__ == '__main__':
  configuration.run(main)
