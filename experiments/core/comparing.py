"""Trains and scores the recipes of a comparison."""

import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import engine
from experiments.core import runs
from experiments.core import scoring
from experiments.core import together
from experiments.core import tuning


def check(config: config_dict.ConfigDict) -> None:
  """Refuses what cannot be compared, before anything is trained.

  Raises:
    ValueError: if there is such a recipe, more seeds are to tune on than there
      are, or each run is to be on many devices.
  """
  together.check_single(config)
  if config.num_tuning_seeds > config.num_seeds:
    raise ValueError(
      f'num_tuning_seeds={config.num_tuning_seeds} is more than num_seeds='
      f'{config.num_seeds}: recipes are tuned on the first of their seeds.'
    )
  for name in config.compare:
    tuning.check(config, name)


def run(
  config: config_dict.ConfigDict,
  directory: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[np.float32]]]:
  """Tunes the recipes of `config.compare`, trains and scores them.

  Args:
    config: of the comparison.
    directory: its own, where `tuning` and `checkpoints` are written, or gone on
      from.
    manual_dir: the folder with the data set's downloaded files.

  Returns:
    The lines of `results.jsonl`, a header and the rows of all runs on test; and
    the curves, as `engine.Course` has them.
  """
  inputs = data.open_all(config, manual_dir)
  tuned: list[dict[str, Any]] = []
  values: dict[str, dict[str, Any]] = {name: {} for name in config.compare}
  if config.num_tuning_seeds:
    few = inputs[: config.num_tuning_seeds]
    tuned = [
      tuning.tune(config, name, few, directory / 'tuning') for name in values
    ]
    values = {one['recipe']: tuning.chosen(config, one) for one in tuned}
  programs = {
    name: together.together(
      configuration.with_recipe(config, name),
      len(inputs),
      inputs[0].steps_per_epoch,
      [of_recipe],
    )
    for name, of_recipe in values.items()
  }
  header = runs.header(config) | {
    'kind': 'compare',
    'reference': config.compare[0],
    'subject': config.subject,
    'tuning': tuned,
  }
  course = engine.run(
    programs,
    inputs,
    directory,
    config,
    header=header,
    label=f'{len(programs)} recipes x {len(inputs)} seeds',
    keep_curves=True,
  )
  rows: list[dict[str, Any]] = [
    course.header
    | {
      'seconds_per_step': course.seconds,
      'seconds_of_rehearsals': course.rehearsed,
    }
  ]
  for name, program in programs.items():
    state = course.states[name]
    scores = scoring.score(
      program, state, inputs, 'test', config, thorough=True
    )
    labels = [{'variant': name, 'values': values[name]}]
    rows += scoring.rows(program, state, scores, 'test', labels, config.seed)
  for one in inputs:
    one.train.close()
  return rows, course.curves
