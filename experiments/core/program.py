"""Programs: runs that train together, behind one interface.

`alone` makes the program of one run, on the devices of its placement;
`together.together` makes the program of many runs. The engine trains both.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from experiments.core import data
from experiments.core import placement as placement_lib
from experiments.core import presence
from experiments.core import rehearsals
from experiments.core import training
from experiments.evaluate import evaluate

State = Any


class Program(NamedTuple):
  """Functions that train and evaluate some runs together."""

  config: config_dict.ConfigDict
  num_runs: int
  init: Callable[[Sequence[Any]], State]  # a batch of each seed -> state
  # for each step a batch of each seed -> what `advance` takes
  feed: Callable[[Iterable[Sequence[Any]]], Any]
  # (state, feed) -> state, metrics [steps, runs], seconds without compiling
  advance: Callable[[State, Any], tuple[State, dict[str, Any], float]]
  rehearsals: rehearsals.Rehearsals
  predict: evaluate.Predict  # (state, batch, condition, index) -> outputs
  # (data of each seed, split) -> batches for `predict`
  evaluation: Callable[[Sequence[data.Data], str], Iterable[Any]]
  # a batch of each seed -> shapes of what `save` returns
  shapes: Callable[[Sequence[Any]], Any]
  save: Callable[[State], Any]  # state -> arrays
  # (arrays, a batch of each seed) -> state
  restore: Callable[[Any, Sequence[Any]], State]
  # (state, getter of a part of a `TrainState`) -> that part, [runs, ...]
  runs_of: Callable[[State, Callable[[Any], Any]], Any]
  # programs with equal layouts share what `feed` returns; None: no sharing
  layout: Any
  # device memory that a step needs; NaN before the first step
  megabytes: Callable[[], float] = lambda: float('nan')


def alone(config: config_dict.ConfigDict, steps_per_epoch: int) -> Program:
  """The program of a single run, on one device or many.

  Raises:
    ValueError: if the batch size, or the method, does not go with
      `config.parallel` or with several processes.
  """
  placement = placement_lib.make(config.parallel)
  if config.data.batch_size % placement.num_devices:
    raise ValueError(
      f'config.data.batch_size is {config.data.batch_size}, the rows of all'
      f' devices together, and config.parallel={placement.mode!r} divides them'
      f' among {placement.num_devices} devices; expected a multiple of'
      f' {placement.num_devices}.'
    )
  experiment = training.make(config, steps_per_epoch, placement)
  if experiment.rehearsal is not None and jax.process_count() > 1:
    raise ValueError(
      f'The method {config.method.name!r} rehearses between steps, which works'
      f' in one process only, and there are {jax.process_count()}.'
    )
  key = jax.random.key(config.seed)
  predict = placement.predict(make_predict(config, experiment))
  rehearsing = rehearsals.Rehearsals(
    experiment.rehearsal,
    steps_per_epoch,
    lambda batches: placement.whole_batch(batches[0]),
    placement.put,
  )
  compiled: list[Callable[..., Any]] = []

  def advance(state: State, batches: Iterable[Any]) -> Any:
    if not compiled:
      compiled.append(
        placement.step(experiment.train_step, state, config.donate_state)
      )
    state, metrics, seconds = one_by_one(compiled[0], state, batches)
    return state, jax.tree.map(lambda leaf: leaf[:, None], metrics), seconds

  return Program(
    config=config,
    num_runs=1,
    init=lambda batches: placement.init(
      experiment.init, key, placement.batch(batches[0])
    ),
    feed=lambda steps: (placement.batch(batches[0]) for batches in steps),
    advance=advance,
    rehearsals=rehearsing,
    predict=lambda state, *others: predict(state.variables, *others),
    evaluation=lambda inputs, split: inputs[0].evaluation(split),
    shapes=lambda batches: placement.shapes(
      experiment.init, key, placement.batch(batches[0])
    ),
    save=lambda state: state,
    restore=lambda saved, _: saved,
    runs_of=lambda state, of: jax.tree.map(lambda leaf: leaf[None], of(state)),
    layout=None,
  )


def stack(trees: Sequence[Any]) -> Any:
  """Stacks NumPy batches along a new leading axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def of_seed(batch: Any, seed: int) -> Any:
  """The batch of one seed, out of those that `stack` has stacked."""
  return jax.tree.map(lambda leaf: leaf[seed], batch)


def one_by_one(
  step: Callable[..., Any], state: State, batches: Iterable[Any]
) -> tuple[State, dict[str, Any], float]:
  """Calls `step` on each batch; also returns metrics [steps, ...], seconds."""
  metrics = []
  began = time.perf_counter()
  for batch in batches:
    state, new = step(state, batch)
    metrics.append(new)
  jax.block_until_ready((state, metrics))
  seconds = time.perf_counter() - began
  return state, stack(jax.device_get(metrics)), seconds


def make_predict(
  config: config_dict.ConfigDict, experiment: training.Experiment
) -> evaluate.Predict:
  """The pure function that evaluates a configuration's model."""
  return evaluate.make_predict(
    experiment.model,
    config.evaluation.noise_scale.to_dict(),
    data.finish(config),
    tells_missing=bool(presence.missing_rates(config)),
  )
