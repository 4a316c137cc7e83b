"""Scores of the runs of a program, and their rows of results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax
from ml_collections import config_dict

from experiments.core import data
from experiments.core import program as program_lib
from experiments.evaluation import evaluate


def score(
  program: program_lib.Program,
  state: Any,
  inputs: Sequence[data.Data],
  split: str,
  config: config_dict.ConfigDict,
  *,
  thorough: bool,
  metrics: Sequence[str] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
  """Evaluates all runs of a program."""
  scores = evaluate.evaluate(
    program.predict,
    state,
    program.evaluation(inputs, split),
    modalities=sorted(config.model.encoders),
    metrics=config.evaluation.metrics if metrics is None else metrics,
    noise_levels=config.evaluation.noise_levels,
    thorough=thorough,
    target=config.target,
  )
  return {name: np.atleast_1d(values) for name, values in scores.items()}


def rows(
  program: program_lib.Program,
  state: Any,
  scores: Mapping[str, np.ndarray[Any, Any]],
  split: str,
  labels: Sequence[Mapping[str, Any]],
  first_seed: int,
) -> list[dict[str, Any]]:
  """The rows of `results.jsonl`: one a run, variants first."""
  opt_state = program.runs_of(state).opt_state
  skipped = np.asarray(optax.tree.get(opt_state, 'total_notfinite'))
  num_seeds = program.num_runs // len(labels)
  return [
    {
      **labels[i // num_seeds],
      'seed': first_seed + i % num_seeds,
      'split': split,
      'skipped_steps': int(skipped[i]),
      **{name: float(values[i]) for name, values in scores.items()},
    }
    for i in range(program.num_runs)
  ]
