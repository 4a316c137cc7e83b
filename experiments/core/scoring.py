"""Scores of the runs of a program, and their rows of results."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optax
from ml_collections import config_dict

from experiments.core import data
from experiments.core import engine
from experiments.core import program as program_lib
from experiments.evaluate import evaluate
from experiments.evaluate import units

Labels = Sequence[Mapping[str, Any]]  # of each variant


def configured(
  config: config_dict.ConfigDict,
  predict: evaluate.Predict,
  variables: Any,
  batches: Iterable[evaluate.Batch],
  *,
  thorough: bool,
  metrics: Sequence[str] | None = None,
  noise_levels: Sequence[float] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
  """`evaluate.evaluate`; what is None is as in the configuration."""
  settings = config.evaluation
  return evaluate.evaluate(
    predict,
    variables,
    batches,
    modalities=sorted(config.model.encoders),
    metrics=settings.metrics if metrics is None else metrics,
    noise_levels=settings.noise_levels
    if noise_levels is None
    else noise_levels,
    thorough=thorough,
    target=config.target,
    units=units.Units.of(config),
  )


def score(
  program: program_lib.Program,
  state: Any,
  inputs: Sequence[data.Data],
  split: str,
  **options: Any,
) -> dict[str, np.ndarray[Any, Any]]:
  """Evaluates all runs of a program; options are those of `configured`."""
  batches = program.evaluation(inputs, split)
  scores = configured(
    program.config, program.predict, state, batches, **options
  )
  return {name: np.atleast_1d(values) for name, values in scores.items()}


def rows(
  program: program_lib.Program,
  state: Any,
  inputs: Sequence[data.Data],
  split: str,
  labels: Labels,
  *,
  thorough: bool = False,
  metrics: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
  """Evaluates all runs; a row of `results.jsonl` for each, variants first."""
  scores = score(
    program, state, inputs, split, thorough=thorough, metrics=metrics
  )
  skipped = program.runs_of(
    state, lambda one: optax.tree.get(one.opt_state, 'total_notfinite')
  )
  num_seeds = program.num_runs // len(labels)
  return [
    {
      **labels[i // num_seeds],
      'seed': program.config.seed + i % num_seeds,
      'split': split,
      'skipped_steps': int(skipped[i]),
      **{name: float(values[i]) for name, values in scores.items()},
    }
    for i in range(program.num_runs)
  ]


class Watch(engine.Observer):
  """Scores programs by the primary metric when checkpoints are saved.

  Attributes:
    rows: rows of results, each with its `step`.
    megabytes: program -> device memory that its step needs.
  """

  def __init__(
    self,
    programs: Mapping[str, program_lib.Program],
    labels: Mapping[str, Labels],
    inputs: Sequence[data.Data],
    when: Callable[[int, str], str | None],
  ) -> None:
    """`when(step, name)` says on which split a program is scored, if any."""
    self._programs, self._labels = programs, labels
    self._inputs, self._when = inputs, when
    self.rows: list[dict[str, Any]] = []
    self.megabytes: dict[str, float] = {}

  def checkpoint(self, step: int, states: Mapping[str, Any]) -> None:
    """Scores the programs that are due."""
    for name, program in self._programs.items():
      self.megabytes[name] = program.megabytes()
      if (split := self._when(step, name)) is not None:
        found = rows(
          program, states[name], self._inputs, split, self._labels[name],
          metrics=program.config.evaluation.metrics[:1],
        )  # fmt: skip
        self.rows += [{**row, 'step': step} for row in found]

  def kept(self) -> Any:
    """What has been found so far."""
    return {'rows': self.rows, 'megabytes': self.megabytes}

  def resume(self, kept: Any, step: int) -> None:
    """Restores what had been found."""
    del step
    self.rows, self.megabytes = kept['rows'], kept['megabytes']
