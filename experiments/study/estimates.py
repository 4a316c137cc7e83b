"""Estimates how long a comparison takes, from a few of its steps."""

import os
import time
from typing import NamedTuple

from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import together
from experiments.study import studies

_STEPS = 5

# The mean over recipes of the time to compile a program, and to compile what
# draws parameters (most recipes share that, but not for teachers), both
# relative to the first recipe's.
_COMPILING = 2.2
_DRAWING = 0.5
# Programs that are compiled per tuned recipe: of candidates, and of the choice.
_PROGRAMS = 2.0


class Estimate(NamedTuple):
  """Seconds that a comparison takes; right to a factor of about two."""

  stepping: float
  compiling: float

  @property
  def seconds(self) -> float:
    """Both together."""
    return self.stepping + self.compiling


def estimate(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Estimate:
  """Times a few steps of the first recipe, and infers the others from it.

  All candidates of the first round are one program, as in tuning, but with
  equal values.

  Args:
    config: of the comparison.
    manual_dir: the folder with the data set's downloaded files.
  """
  number = config.tuning.num_seeds or 1
  few = configuration.with_values(config, {'num_seeds': number})
  inputs = data.open_all(few, manual_dir)
  candidates = config.tuning.num_candidates if config.tuning.num_seeds else 1
  rate = config.optimizer.get('learning_rate')
  variants: list[dict[str, float]] = [{}]
  if isinstance(rate, float) and candidates > 1:
    variants = [{'optimizer.learning_rate': rate}] * candidates
  program = together.together(
    configuration.with_recipe(few, config.compare[0]),
    number,
    inputs[0].steps_per_epoch,
    variants,
  )
  rows = [[next(one.train) for one in inputs] for _ in range(_STEPS)]
  began = time.perf_counter()
  state = program.init(rows[0])
  drawn = time.perf_counter()
  state, _, _ = program.advance(state, program.feed(rows[:1]))
  compiled = time.perf_counter()
  _, _, seconds = program.advance(state, program.feed(rows))
  for one in inputs:
    one.train.close()
  per_run = seconds / _STEPS / program.num_runs
  settings, tuned = config.tuning, config.tuning.num_seeds
  runs = config.num_seeds
  if tuned:
    more = settings.rounds * settings.num_more
    # Half of the recipes choose another candidate for early stopping.
    runs = tuned * (settings.num_candidates + more) + 1.5 * config.num_seeds
  relative = sum(
    studies.COSTS.get(name, studies.COSTS['']) for name in config.compare
  )
  programs = (_PROGRAMS if tuned else 1) * len(config.compare)
  return Estimate(
    stepping=per_run * runs * config.steps * relative,
    compiling=(drawn - began) * _DRAWING * len(config.compare)
    + (compiled - drawn) * _COMPILING * programs,
  )
