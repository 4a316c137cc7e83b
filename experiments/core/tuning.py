"""Chooses among the variants of a recipe, on validation."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import engine
from experiments.core import grouping
from experiments.core import runs
from experiments.core import scoring
from experiments.core import together
from experiments.core import variants as variants_lib
from experiments.evaluation import metrics
from experiments.evaluation import statistics

# What a recipe may change: the rest is shared, or the comparison is not fair.
_OF_A_RECIPE = frozenset(
  {'method', 'weighting', 'model', 'optimizer', 'max_skipped_steps'}
)


def check(config: config_dict.ConfigDict, recipe: str) -> None:
  """Refuses a recipe that changes what all must share, or cannot be run.

  Args:
    config: of the comparison.
    recipe: a name in `config.recipes`.

  Raises:
    ValueError: if it is one.
  """
  variants = variants_lib.of_recipe(config, recipe)
  changed = {key.split('.')[0] for one in variants for key in one.values}
  changed |= set(config.recipes[recipe]) - {'grid'}
  if shared := sorted(changed - _OF_A_RECIPE):
    raise ValueError(
      f'The recipe {recipe!r} changes {shared}, which all recipes of a'
      f' comparison must share; it may change {sorted(_OF_A_RECIPE)}.'
    )
  grouping.check(configuration.with_recipe(config, recipe), variants)


def tune(
  config: config_dict.ConfigDict,
  recipe: str,
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
) -> dict[str, Any]:
  """Trains every variant of a recipe's grid, or finishes doing so.

  Args:
    config: of the comparison.
    recipe: a name in `config.recipes`.
    inputs: the data of the seeds to tune on.
    directory: where the result is kept, as `<recipe>.jsonl`.

  Returns:
    `recipe`, and `candidates`: for each variant its `values` and, if there are
    several, `validation`, the primary metric of the fused output [seeds].
  """
  variants = variants_lib.of_recipe(config, recipe)
  if len(variants) == 1:
    return {'recipe': recipe, 'candidates': [{'values': variants[0].values}]}
  path = directory / f'{recipe}.jsonl'
  if path.exists():
    return runs.read_lines(path)[1]
  changed = configuration.with_recipe(config, recipe)
  groups = grouping.groups(changed, variants, range(len(variants)), inputs[0])
  programs = {
    f'{i}': together.together(
      group.config, len(inputs), inputs[0].steps_per_epoch, group.values
    )
    for i, group in enumerate(groups)
  }
  (directory / recipe).mkdir(parents=True, exist_ok=True)
  course = engine.run(
    programs,
    inputs,
    directory / recipe,
    changed,
    header=runs.header(config),
    label=f'{recipe}: {len(variants)} variants x {len(inputs)} seeds',
  )
  metric = config.evaluation.metrics[0]
  candidates: list[Any] = [None] * len(variants)
  for i, group in enumerate(groups):
    scores = scoring.score(
      programs[f'{i}'],
      course.states[f'{i}'],
      inputs,
      'validation',
      group.config,
      metrics=[metric],
      thorough=False,
    )[f'{metric}/fused'].reshape(-1, len(inputs))
    for member, of_seeds in zip(group.members, scores, strict=True):
      candidates[member] = {
        'values': variants[member].values,
        'validation': of_seeds.tolist(),
      }
  found = {'recipe': recipe, 'candidates': candidates}
  runs.write_lines(path, [runs.header(config), found])
  shutil.rmtree(directory / recipe)
  return found


def chosen(
  config: config_dict.ConfigDict, tuned: Mapping[str, Any]
) -> dict[str, Any]:
  """The values of the best candidate, by the metric's direction.

  Args:
    config: whose first metric it is.
    tuned: of `tune`.

  Returns:
    Dotted key -> value.
  """
  higher = metrics.higher_is_better(config.evaluation.metrics[0])
  best = statistics.best_candidate(tuned['candidates'], higher)
  values: dict[str, Any] = best['values']
  return values
