"""Trains and scores the recipes of a comparison."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import engine
from experiments.core import refusals
from experiments.core import scoring
from experiments.core import together
from experiments.core import tuning
from experiments.report import results as results_lib


class _Plan(NamedTuple):
  """A program of a comparison, and when it is tested."""

  recipe: str
  values: Mapping[str, Any] = {}
  traced: Sequence[str] = ()  # keys that are arguments of the program
  is_last: bool = True  # whether it is tested at the end of training
  stop: int | None = None  # the step of early stopping, where it is tested


def checked(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None = None,
) -> config_dict.ConfigDict:
  """Refuses what cannot be compared, before anything is trained.

  Returns:
    The comparison, with all recipes in place of the word 'all'.

  Raises:
    ValueError: if a recipe is refused or named twice, there is none, the
      subject is not among them, tuning has more seeds than the comparison, or
      `config.parallel` divides single runs.
  """
  config = refusals.of_all(config, manual_dir)
  names = config.compare
  if not names or len(set(names)) < len(names):
    raise ValueError(
      f'config.compare is {names}; expected one recipe or more, each once.'
    )
  if config.subject and config.subject not in names:
    raise ValueError(
      f'config.subject is {config.subject!r}, which is not compared; expected'
      f" one of {names}, or '' for a report without tests."
    )
  together.check_single(config)
  if config.tuning.num_seeds > config.num_seeds:
    raise ValueError(
      f'tuning.num_seeds={config.tuning.num_seeds} is more than num_seeds='
      f'{config.num_seeds}: recipes are tuned on the first of their seeds.'
    )
  for name in names:
    tuning.check(config, name)
  return config


def run(
  config: config_dict.ConfigDict,
  directory: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[np.float32]]]:
  """Tunes the recipes of `config.compare`, trains and scores them.

  It writes `tuning` and `checkpoints` into the directory, or resumes from them.

  Returns:
    The lines of `results.jsonl`, and the curves, as `engine.Course` has them.
    The lines are a header, and the scores of all runs on test at the end of
    training and, if recipes were tuned, with early stopping.
  """
  inputs = data.open_all(config, manual_dir)
  tuned: list[tuning.Tuned] = []
  plans = {name: _Plan(name) for name in config.compare}
  if number := config.tuning.num_seeds:
    tuned = tuning.tune(config, inputs[:number], directory / 'tuning')
    plans = dict(plan for one in tuned for plan in _plans(one))
  programs = {
    name: together.together(
      configuration.with_values(
        configuration.with_recipe(config, plan.recipe), plan.values
      ),
      len(inputs),
      inputs[0].steps_per_epoch,
      [{key: plan.values[key] for key in plan.traced}],
    )
    for name, plan in plans.items()
  }
  labels = {
    name: [{'variant': plan.recipe, 'values': plan.values}]
    for name, plan in plans.items()
  }

  def when(step: int, name: str) -> str | None:
    # Runs that stop at the last step are tested after training, with the rest.
    return 'test' if step == plans[name].stop != config.steps else None

  watch = scoring.Watch(programs, labels, inputs, when)
  course = engine.run(
    programs,
    inputs,
    directory,
    config,
    beside={
      'kind': 'compare',
      'reference': config.compare[0],
      'subject': config.subject,
      'tuning': tuned,
    },
    label=f'{len(programs)} programs x {len(inputs)} seeds',
    observer=watch,
    keep_curves=True,
  )
  rows: list[dict[str, Any]] = [
    course.header
    | {
      'seconds_per_step': course.seconds,
      'seconds_of_rehearsals': course.rehearsed,
      'seconds': {name: course.seconds_of(name) for name in programs},
      'megabytes': watch.megabytes,
    }
  ]
  stopped = watch.rows
  for name, plan in plans.items():
    if plan.is_last or plan.stop == config.steps:
      found = scoring.rows(
        programs[name], course.states[name], inputs, 'test', labels[name],
        thorough=plan.is_last,
      )  # fmt: skip
      rows += found if plan.is_last else []
      if plan.stop == config.steps:
        stopped += [{**row, 'step': plan.stop} for row in found]
  rows += [{**row, 'split': results_lib.STOPPED} for row in stopped]
  for one in inputs:
    one.train.close()
  return rows, course.curves


def _plans(tuned: tuning.Tuned) -> Iterator[tuple[str, _Plan]]:
  """A recipe's programs: two if early stopping chooses another candidate."""
  name = tuned['recipe']
  last, early = (tuned['chosen'][kind] for kind in ('last', 'stopped'))
  plan = _Plan(name, tuning.values_of(tuned, last), tuned['traced'])
  if early['candidate'] == last['candidate']:
    yield name, plan._replace(stop=early['step'])
    return
  yield name, plan
  values = tuning.values_of(tuned, early)
  yield (
    f'{name}, stopped early',
    plan._replace(values=values, is_last=False, stop=early['step']),
  )
