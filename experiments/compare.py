"""Compares methods over seeds, on the same data, in one program a method.

  python -m experiments.compare \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

Every method of `config.methods` starts from the same parameters and sees the
same batches in the same order. All seeds of a method run under `vmap` in one
compiled program, which scans the training step of `experiments.train`. The
run's directory ends up with `results.jsonl`, `curves.npz`, `report.md` and its
figures. A run that was killed goes on from its last checkpoint.
"""

import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax import lax
from ml_collections import config_dict

from experiments import configuration
from experiments import data
from experiments import evaluation
from experiments import report
from experiments import runs
from experiments import training

# What a method may change: the rest is shared, or the comparison is not fair.
_OF_A_METHOD = frozenset(
  {'weighting', 'model', 'optimizer', 'max_skipped_steps'}
)


class _Method(NamedTuple):
  """One method, on all seeds at once: leading axis [seeds] everywhere."""

  init: Callable[..., Any]  # (keys, batch) -> states
  train_steps: Any  # (states, batches) -> states, metrics
  predict: evaluation.Predict


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
    ValueError: if `workdir` holds a run of another configuration, or a method
      changes what all methods must share.
  """
  methods = {name: _make(config, name) for name in config.compare}
  seeds = range(config.seed, config.seed + config.num_seeds)
  inputs = [data.open_data(config, seed, manual_dir) for seed in seeds]
  workdir = runs.open_workdir(workdir, config)
  objectives = ('fused', *sorted(config.model.encoders))

  positions = [one.train.get_state() for one in inputs]
  first = _stack([next(one.train) for one in inputs])
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  shape = (config.num_seeds, config.steps, len(objectives))
  curves = {
    f'{kind}/{name}': np.zeros(shape, np.float32)
    for kind in ('losses', 'weights')
    for name in methods
  }
  seconds: dict[str, list[float]] = {name: [] for name in methods}
  header = runs.header(config) | {'objectives': objectives}
  start = 0
  checkpoints = runs.Checkpoints(workdir)
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
    start, positions = progress['step'], progress['loaders']
    seconds, header = progress['seconds'], progress['header']
  for one, position in zip(inputs, positions, strict=True):
    one.train.set_state(position)

  compiled: dict[tuple[str, int], Callable[..., Any]] = {}
  with tqdm.tqdm(
    initial=start * len(methods),
    total=config.steps * len(methods),
    desc=f'{len(methods)} methods x {len(seeds)} seeds',
    unit='step',
    mininterval=0.5,
  ) as progress_bar:
    for begin in range(start, config.steps, config.log_every_steps):
      end = min(begin + config.log_every_steps, config.steps)
      per_seed = [
        _stack([next(one.train) for _ in range(begin, end)]) for one in inputs
      ]
      # Blocked on, or the first method's time would hold the transfer.
      batches = jax.block_until_ready(jax.device_put(_stack(per_seed)))
      for name in _rotated(list(methods), begin // config.log_every_steps):
        method = methods[name]
        if (name, end - begin) not in compiled:
          progress_bar.set_postfix_str(f'compiling {name}')
          compiled[name, end - begin] = method.train_steps.lower(
            states[name], batches
          ).compile()
        began = time.perf_counter()
        states[name], metrics = jax.block_until_ready(
          compiled[name, end - begin](states[name], batches)
        )
        seconds[name].append((time.perf_counter() - began) / (end - begin))
        for kind, values in metrics.items():
          for i, objective in enumerate(objectives):
            curves[f'{kind}/{name}'][:, begin:end, i] = values[objective]
        loss = float(np.mean(metrics['losses']['fused']))
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
            'loaders': [one.train.get_state() for one in inputs],
            'seconds': seconds,
            'header': header,
          },
        )
  checkpoints.close()

  rows: list[dict[str, Any]] = [header | {'seconds_per_step': seconds}]
  for name, method in methods.items():
    scores = evaluation.evaluate(
      method.predict,
      states[name].variables,
      # Every seed standardises by its own training rows.
      (
        _stack(batch)
        for batch in zip(
          *(one.evaluation('test') for one in inputs), strict=True
        )
      ),
      modalities=objectives[1:],
      metrics=config.evaluation.metrics,
      noise_levels=config.evaluation.noise_levels,
      thorough=True,
      target=config.target,
    )
    skipped = optax.tree.get(states[name].opt_state, 'total_notfinite')
    rows += [
      {'method': name, 'seed': seed, 'split': 'test'}
      | {'skipped_steps': int(skipped[i])}
      | {key: float(values[i]) for key, values in scores.items()}
      for i, seed in enumerate(seeds)
    ]
  named: Any = curves  # np.savez has keyword arguments of its own
  np.savez_compressed(workdir / 'curves.npz', **named)
  runs.write_lines(workdir / 'results.jsonl', rows)
  return report.write(workdir)


def _make(config: config_dict.ConfigDict, name: str) -> _Method:
  """One method of a configuration, vmapped over seeds, not compiled yet."""
  shared = sorted(set(config.methods[name]) - _OF_A_METHOD)
  if shared:
    raise ValueError(
      f'The method {name!r} changes {shared}, which all methods of a comparison'
      f' must share; it may change {sorted(_OF_A_METHOD)}.'
    )
  changed = configuration.with_method(config, name)
  experiment = training.make(changed)
  predict = evaluation.make_predict(
    experiment.model, config.evaluation.noise_scale.to_dict()
  )

  def train_steps(state: training.TrainState, batches: Any) -> Any:
    return lax.scan(experiment.train_step, state, batches)

  return _Method(
    init=jax.jit(jax.vmap(experiment.init)),
    train_steps=jax.jit(jax.vmap(train_steps), donate_argnums=0),
    predict=jax.jit(jax.vmap(predict, in_axes=(0, 0, None, None))),
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
