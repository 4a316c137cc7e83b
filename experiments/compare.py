"""Compares methods over seeds, on the same data, in one program a method.

  python -m experiments.compare \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

Every method of `config.compare` starts from the same parameters and sees the
same batches in the same order for the same number of steps. With
`config.num_tuning_seeds`, each candidate of a method's grid is trained on as
many seeds first, and the one with the best fused output on the validation split
is the method's. All seeds of a method run under `vmap` in one compiled program,
which loops over the training step of `experiments.train`. The run's directory
ends up with `results.jsonl`, `curves.npz`, `report.md` and its figures. A run
that was killed goes on from its last checkpoint.
"""

import itertools
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import rehearsals
from experiments.core import runs
from experiments.core import training
from experiments.evaluation import evaluate
from experiments.evaluation import metrics as metrics_lib
from experiments.evaluation import statistics
from experiments.reporting import report
from experiments.reporting import results as results_lib

# What a method may change: the rest is shared, or the comparison is not fair.
_OF_A_METHOD = frozenset(
  {'method', 'weighting', 'model', 'optimizer', 'max_skipped_steps', 'grid'}
)


class _Method(NamedTuple):
  """One method, on all seeds at once: leading axis [seeds] everywhere."""

  init: Callable[..., Any]  # (keys, batch) -> states
  # states, batches, place in them -> states, metrics
  train_step: Any
  predict: evaluate.Predict
  rehearsals: rehearsals.Rehearsals


class _Trained(NamedTuple):
  """What training several methods gives."""

  states: dict[str, Any]  # method -> [seeds, ...]
  curves: dict[str, Any]  # losses/<method>, weights/<method>: [seeds, steps, K]
  header: dict[str, Any]  # with the times


def compare(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Trains and evaluates every method on every seed, and writes the report.

  Args:
    config: as the files in experiments/configs/ make it. Run `s` of a method
      is the run of `experiments.train` with that method's changes and the seed
      `config.seed + s`, to rounding. `config.compare` names the methods; the
      first is what the times of the others are relative to.
    workdir: the run's directory.
    manual_dir: the folder with the data set's downloaded files; needed when
      the data set is prepared, and not after.

  Returns:
    The path of the report.

  Raises:
    ValueError: if `workdir` holds a run of another configuration, a method
      changes what all methods must share, more seeds are to tune on than there
      are, or `config.parallel` is not 'single'.
  """
  if config.num_tuning_seeds > config.num_seeds:
    raise ValueError(
      f'num_tuning_seeds={config.num_tuning_seeds} is more than num_seeds='
      f'{config.num_seeds}: methods are tuned on the first of their seeds.'
    )
  if config.parallel != 'single':
    raise ValueError(
      f'config.parallel is {config.parallel!r}, and a comparison runs all seeds'
      " on one device; expected 'single'."
    )
  for name in config.compare:
    _check(config, name)
  seeds = range(config.seed, config.seed + config.num_seeds)
  inputs = [data.open_data(config, seed, manual_dir) for seed in seeds]
  workdir = runs.open_workdir(workdir, config)
  tuning = (
    [_tune(config, name, inputs, workdir) for name in config.compare]
    if config.num_tuning_seeds
    else []
  )
  chosen = {
    one['recipe']: statistics.best_candidate(
      one['candidates'],
      metrics_lib.higher_is_better(config.evaluation.metrics[0]),
    )['values']
    for one in tuning
  }
  methods = {
    name: _make(config, name, chosen.get(name, {}), inputs[0].steps_per_epoch)
    for name in config.compare
  }
  header = runs.header(config) | {
    'format': results_lib.FORMAT,
    'kind': 'compare',
    'modalities': sorted(config.model.encoders),
    'metrics': list(config.evaluation.metrics),
    'reference': config.compare[0],
    'subject': config.get('subject'),
    'tuning': tuning,
  }
  trained = _train(methods, config, inputs, workdir, header)

  rows: list[dict[str, Any]] = [trained.header]
  for name, method in methods.items():
    state = trained.states[name]
    scores = evaluate.evaluate(
      method.predict,
      state.variables,
      _evaluation_batches(inputs, 'test'),
      modalities=sorted(config.model.encoders),
      metrics=config.evaluation.metrics,
      noise_levels=config.evaluation.noise_levels,
      thorough=True,
      target=config.target,
    )
    skipped = optax.tree.get(state.opt_state, 'total_notfinite')
    rows += [
      {'variant': name, 'values': chosen.get(name, {})}
      | {'seed': seed, 'split': 'test'}
      | {'skipped_steps': int(skipped[i])}
      | {key: float(values[i]) for key, values in scores.items()}
      for i, seed in enumerate(seeds)
    ]
  named: Any = trained.curves  # np.savez has keyword arguments of its own
  np.savez_compressed(workdir / 'curves.npz', **named)
  runs.write_lines(workdir / 'results.jsonl', rows)
  return report.write(workdir)


def _tune(
  config: config_dict.ConfigDict,
  name: str,
  inputs: Sequence[data.Data],
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """Every candidate of one method's grid, and its score on validation."""
  values = configuration.candidates(config, name)
  if len(values) == 1:
    return {'recipe': name, 'candidates': [{'values': values[0]}]}
  directory = workdir / 'tuning'
  path = directory / f'{name}.jsonl'
  if path.exists():
    return runs.read_lines(path)[1]
  (directory / name).mkdir(parents=True, exist_ok=True)
  few = inputs[: config.num_tuning_seeds]
  candidates = {
    ', '.join(f'{k.split(".")[-1]}={v}' for k, v in some.items()): _make(
      config, name, some, few[0].steps_per_epoch
    )
    for some in values
  }
  trained = _train(
    candidates, config, few, directory / name, runs.header(config), f'{name}: '
  )
  metric = config.evaluation.metrics[0]
  found: dict[str, Any] = {'recipe': name, 'candidates': []}
  for some, (label, method) in zip(values, candidates.items(), strict=True):
    scores = evaluate.evaluate(
      method.predict,
      trained.states[label].variables,
      _evaluation_batches(few, 'validation'),
      modalities=sorted(config.model.encoders),
      metrics=[metric],
      thorough=False,
      target=config.target,
    )[f'{metric}/fused']
    found['candidates'].append(
      {'values': some, 'validation': [float(score) for score in scores]}
    )
  runs.write_lines(path, [runs.header(config), found])
  shutil.rmtree(directory / name)
  return found


def _train(
  methods: Mapping[str, _Method],
  config: config_dict.ConfigDict,
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
  header: dict[str, Any],
  label: str = '',
) -> _Trained:
  """Trains methods in turn, some steps each, or finishes doing so."""
  objectives = ('fused', *sorted(config.model.encoders))
  header = header | {'objectives': objectives}
  number = len(inputs)
  for one in inputs:
    one.train.set_state(one.train.get_state() | {'next_batch': 0})
  first = _stack([next(one.train) for one in inputs])
  keys = jnp.stack([jax.random.key(config.seed + i) for i in range(number)])
  shape = (number, config.steps, len(objectives))
  curves = {
    f'{kind}/{name}': np.zeros(shape, np.float32)
    for kind in ('losses', 'weights')
    for name in methods
  }
  seconds: dict[str, list[float]] = {name: [] for name in methods}
  rehearsed: dict[str, list[float]] = {name: [] for name in methods}
  start = 0
  checkpoints = runs.Checkpoints(directory)
  restored = checkpoints.restore(
    {
      'states': {
        name: jax.eval_shape(one.init, keys, first)
        for name, one in methods.items()
      },
      'curves': jax.eval_shape(lambda: curves),
    }
  )
  if restored is None:
    states = {name: one.init(keys, first) for name, one in methods.items()}
  else:
    arrays, progress = restored
    states = arrays['states']
    curves = {name: np.array(curve) for name, curve in arrays['curves'].items()}
    runs.warn_of_changes(progress['header'], header)
    start, header = progress['step'], progress['header']
    seconds, rehearsed = progress['seconds'], progress['rehearsed']
  for one in inputs:
    one.train.set_state(one.train.get_state() | {'next_batch': start})

  compiled: dict[tuple[str, int], Callable[..., Any]] = {}
  with tqdm.tqdm(
    initial=start * len(methods),
    total=config.steps * len(methods),
    desc=f'{label}{len(methods)} methods x {number} seeds',
    unit='step',
    mininterval=0.5,
  ) as progress_bar:

    def train_steps(
      name: str, batches: Any, places: range
    ) -> tuple[Any, float]:
      """Metrics [steps] of [seeds], and seconds, of some of the steps."""
      length = batches[config.target].shape[1]
      if (name, length) not in compiled:
        progress_bar.set_postfix_str(f'compiling {name}')
        compiled[name, length] = (
          methods[name]
          .train_step.lower(states[name], batches, np.int32(0))
          .compile()
        )
      step, metrics = compiled[name, length], []
      began = time.perf_counter()
      # Not a loop in the program, in which XLA's convolutions are slow on CPUs.
      for place in places:
        states[name], new = step(states[name], batches, np.int32(place))
        metrics.append(new)
      jax.block_until_ready((states[name], metrics))
      return metrics, time.perf_counter() - began

    for begin in range(start, config.steps, config.log_every_steps):
      end = min(begin + config.log_every_steps, config.steps)
      per_seed = [
        _stack([next(one.train) for _ in range(begin, end)]) for one in inputs
      ]
      # Blocked on, or the first method's time would hold the transfer.
      batches = jax.block_until_ready(jax.device_put(_stack(per_seed)))
      for name in _rotated(list(methods), begin // config.log_every_steps):
        due = methods[name].rehearsals.is_due
        cuts = [begin, *filter(due, range(begin + 1, end)), end]
        taken = 0.0
        for low, high in itertools.pairwise(cuts):
          if due(low):
            states[name], spent = methods[name].rehearsals.run(
              states[name], inputs, low
            )
            rehearsed[name].append(spent)
          places = range(low - begin, high - begin)
          metrics, spent = train_steps(name, batches, places)
          taken += spent
          for step, new in enumerate(jax.device_get(metrics), start=low):
            for kind, values in new.items():
              for i, objective in enumerate(objectives):
                curves[f'{kind}/{name}'][:, step, i] = values[objective]
        seconds[name].append(taken / (end - begin))
        loss = float(np.mean(curves[f'losses/{name}'][:, begin:end, 0]))
        progress_bar.set_postfix_str(
          f'{name}: fused loss {loss:.3f}', refresh=False
        )
        progress_bar.update(end - begin)
      every = config.checkpoint_every_steps
      if begin // every < end // every or end == config.steps:
        checkpoints.save(
          end,
          {'states': states, 'curves': curves},
          {
            'step': end,
            'seconds': seconds,
            'rehearsed': rehearsed,
            'header': header,
          },
        )
  checkpoints.close()
  return _Trained(
    states,
    curves,
    header | {'seconds_per_step': seconds, 'seconds_of_rehearsals': rehearsed},
  )


def _check(config: config_dict.ConfigDict, name: str) -> None:
  """Refuses a method that changes what all must share."""
  configuration.with_recipe(config, name)
  shared = sorted(set(config.recipes[name]) - _OF_A_METHOD)
  if shared:
    raise ValueError(
      f'The method {name!r} changes {shared}, which all methods of a comparison'
      f' must share; it may change {sorted(_OF_A_METHOD)}.'
    )


def _make(
  config: config_dict.ConfigDict,
  name: str,
  values: Mapping[str, Any],
  steps_per_epoch: int,
) -> _Method:
  """One method with some values, vmapped over seeds, not compiled yet."""
  method = configuration.with_recipe(config, name)
  experiment = training.make(
    configuration.with_values(method, values), steps_per_epoch
  )
  predict = evaluate.make_predict(
    experiment.model,
    config.evaluation.noise_scale.to_dict(),
    data.finish(config),
  )

  def train_step(state: training.TrainState, batches: Any, place: Any) -> Any:
    """A step on one of the batches."""
    batch = jax.tree.map(lambda leaf: leaf[place], batches)
    return experiment.train_step(state, batch)

  def ready(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(jax.vmap(function))

  return _Method(
    init=ready(experiment.init),
    train_step=jax.jit(
      jax.vmap(train_step, in_axes=(0, 0, None)),
      donate_argnums=(0,) if config.donate_state else (),
    ),
    predict=jax.jit(jax.vmap(predict, in_axes=(0, 0, None, None))),
    rehearsals=rehearsals.Rehearsals(experiment, ready, _stack),
  )


def _evaluation_batches(inputs: Sequence[data.Data], split: str) -> Any:
  """Batches [seeds, ...]: every seed standardises by its own training rows."""
  return (
    _stack(batch)
    for batch in zip(*(one.evaluation(split) for one in inputs), strict=True)
  )


def _rotated(names: list[str], turn: int) -> list[str]:
  """Gives each method each place in turn: none always runs on cold caches."""
  place = turn % len(names)
  return names[place:] + names[:place]


def _stack(trees: Sequence[Any]) -> Any:
  """Stacks NumPy batches along a new leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def main(argv: list[str]) -> None:
  """Compares, and prints the report's tables."""
  del argv
  config = configuration.CONFIG.value
  workdir = pathlib.Path(
    configuration.WORKDIR.value or runs.default_workdir('compare', config)
  )
  path = compare(config, workdir, configuration.MANUAL_DIR.value)
  print(report.tables(workdir))
  print(f'The report, with figures, is {path}.')


if __name__ == '__main__':
  configuration.run(main)
