"""Programs of many runs: all seeds of one variant or of several.

The functions of one run are vmapped over all runs, and the runs are divided
among the devices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import layout as layout_lib
from experiments.core import program
from experiments.core import rehearsals
from experiments.core import stepping
from experiments.core import training
from experiments.core.layout import RUNS
from experiments.core.layout import SAME
from experiments.core.layout import SEEDS
from experiments.evaluate import evaluate
from experiments.methods import base

Values = Mapping[str, Any]  # dotted key of the configuration -> value


class _Run(NamedTuple):
  """One run, or all runs, with leading axes, of a program."""

  values: dict[str, Any]  # traced key -> []
  state: training.TrainState


def together(
  config: config_dict.ConfigDict,
  num_seeds: int,
  steps_per_epoch: int,
  variants: Sequence[Values] = ({},),
) -> program.Program:
  """The program of all seeds of some variants.

  Args:
    config: of each run, except for what the variants change. Up to rounding,
      run `s` of a variant is the run of `alone` with seed `config.seed + s`.
    num_seeds: how many seeds.
    steps_per_epoch: steps in which the training rows are seen once.
    variants: the values of each, floats, with the same keys. They are arguments
      of the program, so that other values can use the same compiled one.

  Returns:
    The program. Its runs are divided among the devices. What is saved does not
    depend on the number of devices, so any number can resume.
  """
  check_single(config)
  layout = layout_lib.make(len(variants), num_seeds)
  *_, place_of_seeds = layout.places
  arguments = [
    {key: np.float32(value) for key, value in values.items()}
    for values in variants
  ]

  def experiment_of(values: Values) -> training.Experiment:
    changed = configuration.with_values(config, values)
    return training.make(changed, steps_per_epoch)

  # Runs are initialised one by one: drawing random numbers takes long to
  # compile, and the program that does it for one run serves any number of runs,
  # and most recipes.
  fresh = jax.jit(lambda of, *seed: experiment_of(of).fresh(*seed))
  begin = jax.jit(lambda of, *rest: experiment_of(of).begin(*rest))

  def one(values: Values, *seed: Any) -> training.TrainState:
    return begin(values, fresh(values, *seed), *seed)

  keys = [jax.random.key(config.seed + i) for i in range(num_seeds)]

  def init(batches: Sequence[Any]) -> _Run:
    return layout.placed(
      [
        _Run(values, one(values, key, batch))
        for values in arguments
        for key, batch in zip(keys, batches, strict=True)
      ]
    )

  def train_step(run: _Run, batch: Any) -> tuple[_Run, Any]:
    state, metrics = experiment_of(run.values).train_step(run.state, batch)
    return run._replace(state=state), metrics

  def predict(run: _Run, *others: Any) -> Any:
    of_model = program.make_predict(config, experiment_of(run.values))
    return of_model(run.state.variables, *others)

  predict_all = layout.over_runs(predict, RUNS, SEEDS, SAME, SAME)

  def shapes_of_one(batches: Sequence[Any]) -> Any:
    return jax.eval_shape(one, arguments[0], keys[0], batches[0])

  def restore(saved: Any, batches: Sequence[Any]) -> _Run:
    values = jax.tree.map(
      lambda *of: np.repeat(of, num_seeds).reshape(layout.shape), *arguments
    )
    of_one = _Run(arguments[0], shapes_of_one(batches))
    return layout.restored(_Run(values, saved), of_one)

  def join(batches: Sequence[Any]) -> Any:
    return program.stack([batches[i] for i in place_of_seeds])

  def evaluation(
    inputs: Sequence[data.Data], split: str
  ) -> Iterator[dict[str, Any]]:
    """Batches with inputs [seeds, ...], and target and mask [runs, ...]."""
    modalities = sorted(config.model.encoders)
    for batches in zip(*(one.evaluation(split) for one in inputs), strict=True):
      joined = join([evaluate.model_inputs(b, modalities) for b in batches])
      for name in ('mask', config.target):
        joined[name] = np.stack([b[name] for b in batches] * len(variants))
      yield joined

  stepper = stepping.Stepper(train_step, join, layout, config.donate_state)
  return program.Program(
    config=config,
    num_runs=len(variants) * num_seeds,
    init=init,
    feed=stepper.feed,
    advance=stepper.advance,
    megabytes=stepper.megabytes,
    rehearsals=rehearsals.Rehearsals(
      _rehearsing(experiment_of, layout), steps_per_epoch, join
    ),
    predict=jax.jit(
      lambda *given: jax.tree.map(layout.flat, predict_all(*given))
    ),
    evaluation=evaluation,
    shapes=lambda batches: layout.shapes(shapes_of_one(batches)),
    save=lambda run: layout.saved(run.state),
    restore=restore,
    runs_of=lambda run, of: jax.tree.map(layout.flat, of(run.state)),
    layout=(tuple(place_of_seeds), layout.mesh.shape['seeds']),
  )


def check_single(config: config_dict.ConfigDict) -> None:
  """Refuses modes that divide each single run among the devices.

  Raises:
    ValueError: if `config.parallel` is not 'single'.
  """
  if config.parallel != 'single':
    raise ValueError(
      f'config.parallel is {config.parallel!r}, which divides a single run;'
      " several runs are spread over the devices whole. Expected 'single'."
    )


def _rehearsing(
  experiment_of: Callable[[Values], training.Experiment],
  layout: layout_lib.Layout,
) -> base.Rehearsal | None:
  """The method's rehearsal, for all runs at once."""
  rehearsal = experiment_of({}).rehearsal
  if rehearsal is None:
    return None

  def of(run: _Run) -> Any:
    return experiment_of(run.values).rehearsal

  # One run at a time, as in `init`.
  one = jax.jit(lambda run, batch: of(run).begin(run.state, batch))

  def begin(run: Any, batch: Any) -> Any:
    return layout.placed(
      [
        one(alone, program.of_seed(batch, i % layout.num_seeds))
        for i, alone in enumerate(layout.one_by_one(run))
      ]
    )

  def step_of(i: int) -> Callable[..., Any]:
    def step(run: _Run, scratch: Any, batch: Any) -> Any:
      return of(run).passes[i].step(run.state, scratch, batch)

    return layout.over_runs(step, RUNS, RUNS, SEEDS)

  def end(run: _Run, scratch: Any) -> _Run:
    return run._replace(state=of(run).end(run.state, scratch))

  return rehearsal._replace(
    begin=begin,
    passes=tuple(
      walk._replace(step=step_of(i)) for i, walk in enumerate(rehearsal.passes)
    ),
    end=layout.over_runs(end, RUNS, RUNS),
  )
