"""Tunes recipes on validation, all with the same number of candidates."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import grouping
from experiments.core import runs
from experiments.core import spaces
from experiments.core import sweeping
from experiments.core import variants as variants_lib
from experiments.evaluate import choosing
from experiments.evaluate import metrics
from experiments.evaluate import readouts
from experiments.methods import recipes

# What a recipe may change. All else is shared, so that comparisons are fair.
_OF_A_RECIPE = frozenset(
  {
    'method',
    'weighting',
    'model',
    'optimizer',
    'weight_decay',
    'max_skipped_steps',
  }
)

Tuned = dict[str, Any]  # recipe, candidates, steps, traced, seconds, chosen


def check(config: config_dict.ConfigDict, recipe: str) -> None:
  """Refuses a recipe that changes what all must share, or that cannot run.

  Raises:
    ValueError: if the recipe is refused.
  """
  space = spaces.of_recipe(config, recipe)
  changed = {key.split('.')[0] for key in space}
  changes = recipes.changes_of(config.recipes.to_dict(), recipe)
  changed |= set(changes) - {'space'}
  if shared := sorted(changed - _OF_A_RECIPE):
    raise ValueError(
      f'The recipe {recipe!r} changes {shared}, which all recipes of a'
      f' comparison must share; it may change {sorted(_OF_A_RECIPE)}.'
    )
  variants = [variants_lib.Variant({})]
  if config.tuning.num_seeds:
    number = config.tuning.num_candidates
    variants = spaces.candidates(config, recipe, space, number)
  grouping.check(configuration.with_recipe(config, recipe), variants)


def tune(
  config: config_dict.ConfigDict,
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
) -> list[Tuned]:
  """Trains all candidates of all recipes, or resumes doing so.

  At first each recipe has `num_candidates`: its default, and random draws. If
  the choice of any recipe lies at an edge of a range, a round follows: the
  spaces of all recipes grow by one step at all edges where a choice lies, and
  every recipe gets `num_more` candidates. They are its own choice, moved one
  step beyond each edge at which it lies, and draws from the wider space. There
  are at most `rounds` rounds.

  The directory keeps the scores of trained candidates.

  Returns:
    For each recipe: the `candidates`, each with its `values` and its scores on
    `validation`, read-out -> [seeds, steps]; the `steps` at which they were
    scored; the keys that were `traced`; the `seconds` of training; and what is
    `chosen`, the fields of a `choosing.Choice`, at the end of training ('last')
    and with early stopping ('stopped').
  """
  settings = config.tuning
  space = {name: spaces.of_recipe(config, name) for name in config.compare}
  # Recipe -> how many candidates have been drawn, its default among them.
  drawn = dict.fromkeys(config.compare, settings.num_candidates)
  tuned = {}
  for name in config.compare:
    first = spaces.candidates(config, name, space[name], drawn[name])
    tuned[name] = _train(config, name, first, inputs, directory / f'{name}.0')
  for number in range(1, settings.rounds + 1):
    edges = {k: _edges(config, one, space[k]) for k, one in tuned.items()}
    if not any(edges.values()):
      break
    all_edges = {edge for of_recipe in edges.values() for edge in of_recipe}
    wider = {name: spaces.grown(space[name], all_edges) for name in space}
    for name in config.compare:
      beyond = [
        spaces.beyond(config, name, space[name], values, edge)
        for edge, values in edges[name].items()
      ]
      more = [one for one in beyond if one is not None][: settings.num_more]
      known = drawn[name]
      drawn[name] += settings.num_more - len(more)
      more += spaces.candidates(config, name, wider[name], drawn[name])[known:]
      place = directory / f'{name}.{number}'
      found = _train(config, name, more, inputs, place)
      for key in ('candidates', 'seconds'):
        tuned[name][key] += found[key]
    space = wider
  return [{**one, 'chosen': _choices(config, one)} for one in tuned.values()]


def _choices(
  config: config_dict.ConfigDict, tuned: Tuned
) -> dict[str, dict[str, Any]]:
  """The choice among a recipe's candidates, without and with early stopping."""
  found = {
    kind: choosing.choose(
      tuned['candidates'],
      tuned['steps'],
      stopping=kind == 'stopped',
      higher_is_better=metrics.higher_is_better(config.evaluation.metrics[0]),
    )
    for kind in ('last', 'stopped')
  }
  return {kind: choice._asdict() for kind, choice in found.items()}


def values_of(tuned: Tuned, choice: Mapping[str, Any]) -> dict[str, Any]:
  """The values of the chosen candidate."""
  return dict(tuned['candidates'][choice['candidate']]['values'])


def _edges(
  config: config_dict.ConfigDict, tuned: Tuned, space: spaces.Space
) -> dict[spaces.Edge, dict[str, Any]]:
  """The edges at which a choice of a recipe lies, each with its values."""
  found: dict[spaces.Edge, dict[str, Any]] = {}
  for choice in _choices(config, tuned).values():
    values = values_of(tuned, choice)
    for edge in spaces.edges(space, values):
      found.setdefault(edge, values)
  return found


def _train(
  config: config_dict.ConfigDict,
  recipe: str,
  variants: Sequence[variants_lib.Variant],
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
) -> Tuned:
  """Trains and scores some candidates of a recipe, or resumes doing so."""
  path = directory.with_name(f'{directory.name}.jsonl')
  if path.exists():
    return runs.read_lines(path)[1]
  rows, programs = sweeping.run(
    configuration.with_recipe(config, recipe),
    variants,
    inputs,
    directory,
    label=f'tuning {recipe}, ',
    watched=True,
  )
  steps = sorted({row['step'] for row in rows[0]})
  found = {
    'recipe': recipe,
    'candidates': [
      {'values': one.values, 'validation': _scores(config, of_one, steps)}
      for one, of_one in zip(variants, rows, strict=True)
    ],
    'steps': steps,
    # Of the first program; those that follow have the same arguments.
    'traced': programs[0]['keys'],
    'seconds': sum(one['seconds'] for one in programs),
  }
  runs.write_lines(path, [runs.header(config), found])
  shutil.rmtree(directory)
  return found


def _scores(
  config: config_dict.ConfigDict,
  rows: Sequence[Mapping[str, Any]],
  steps: Sequence[int],
) -> dict[str, list[list[float]]]:
  """Read-out -> scores [seeds, steps] of a candidate."""
  at = {(row['seed'], row['step']): row for row in rows}
  seeds = sorted({row['seed'] for row in rows})
  names = {k: f'{config.evaluation.metrics[0]}/{k}' for k in readouts.NAMES}
  return {
    readout: [[at[seed, step][name] for step in steps] for seed in seeds]
    for readout, name in names.items()
    if name in rows[0]
  }
