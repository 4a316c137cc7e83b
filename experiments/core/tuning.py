"""Chooses among the variants of a recipe, on validation."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import grouping
from experiments.core import runs
from experiments.core import sweeping
from experiments.core import variants as variants_lib
from experiments.evaluation import metrics
from experiments.evaluation import statistics
from experiments.methods import recipes

# What a recipe may change: the rest is shared, or the comparison is not fair.
_OF_A_RECIPE = frozenset(
  {'method', 'weighting', 'model', 'optimizer', 'max_skipped_steps'}
)


def check(config: config_dict.ConfigDict, recipe: str) -> None:
  """Refuses a recipe that changes what all must share, or cannot be run.

  Raises:
    ValueError: if it is one.
  """
  variants = variants_lib.of_recipe(config, recipe)
  changed = {key.split('.')[0] for one in variants for key in one.values}
  changes = recipes.changes_of(config.recipes.to_dict(), recipe)
  changed |= set(changes) - {'grid'}
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
  """Trains every variant of a recipe's grid, or finishes doing so."""
  variants = variants_lib.of_recipe(config, recipe)
  if len(variants) == 1:
    return {'recipe': recipe, 'candidates': [{'values': variants[0].values}]}
  path = directory / f'{recipe}.jsonl'
  if path.exists():
    return runs.read_lines(path)[1]
  rows, _ = sweeping.run(
    configuration.with_recipe(config, recipe),
    variants,
    inputs,
    directory / recipe,
    ['validation'],
  )
  name = f'{config.evaluation.metrics[0]}/fused'
  candidates = [
    {'values': one.values, 'validation': [row[name] for row in of_one]}
    for one, of_one in zip(variants, rows, strict=True)
  ]
  found = {'recipe': recipe, 'candidates': candidates}
  runs.write_lines(path, [runs.header(config), found])
  shutil.rmtree(directory / recipe)
  return found


def chosen(
  config: config_dict.ConfigDict, tuned: Mapping[str, Any]
) -> dict[str, Any]:
  """The values of the best candidate, by the metric's direction."""
  higher = metrics.higher_is_better(config.evaluation.metrics[0])
  best = statistics.best_candidate(tuned['candidates'], higher)
  values: dict[str, Any] = best['values']
  return values
