"""Which recipes of a comparison refuse its model, and why."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import training
from experiments.core import variants
from experiments.methods import recipes


def of_all(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None = None,
) -> config_dict.ConfigDict:
  """The comparison, with recipes in place of the word 'all', if it has that.

  They are all recipes of a fair comparison that do not refuse the model.
  """
  if tuple(config.compare) != ('all',):
    return config
  config = config.copy_and_resolve_references()
  config.compare = recipes.tuned()
  return of_what_runs(config, manual_dir)


def of_what_runs(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None = None,
  known: dict[str, dict[str, str]] | None = None,
) -> config_dict.ConfigDict:
  """The comparison without the recipes, and their choices, that refuse it.

  To `known`, what earlier calls found out, this one adds. It holds for all
  comparisons that differ in their data only, with rows of one shape.

  Returns:
    A copy, with `left_out`: recipe, or recipe with a choice -> why.

  Raises:
    ValueError: if no recipe is left.
  """
  inputs = data.open_data(config, config.seed, manual_dir)
  batch = next(inputs.train)
  inputs.train.close()
  known = {} if known is None else known
  kind = _likeness(config, batch)
  if kind not in known:
    known[kind] = _refusals(config, inputs.steps_per_epoch, batch)
  left_out = known[kind]
  some = config.copy_and_resolve_references()
  with some.unlocked():
    some.left_out = dict(left_out)
  some.compare = tuple(name for name in config.compare if name not in left_out)
  if not some.compare:
    raise ValueError(f'The model refuses every recipe: {dict(left_out)}.')
  for recipe, key, choices in _choices(some):
    names = {value: _with_choice(recipe, key, value) for value in choices}
    kept = tuple(v for v, name in names.items() if name not in left_out)
    some.recipes[recipe].space.update_from_flattened_dict(
      {f'{key}.choices': kept}
    )
  return some


def _likeness(config: config_dict.ConfigDict, batch: Mapping[str, Any]) -> str:
  """A text that is equal for comparisons that differ in their rows only."""
  rest = {
    k: v for k, v in config.to_dict().items() if k not in ('data', 'seed')
  }
  shapes = {k: (np.shape(v), np.asarray(v).dtype) for k, v in batch.items()}
  return repr((rest, sorted(shapes.items())))


def _refusals(
  config: config_dict.ConfigDict, steps_per_epoch: int, batch: Any
) -> dict[str, str]:
  """Recipe, or recipe with a choice -> why it refuses; nothing is compiled."""
  tried: dict[str, tuple[str, dict[str, Any]]]
  tried = {name: (name, {}) for name in config.compare}
  for recipe, key, choices in _choices(config):
    for value in choices:
      tried[_with_choice(recipe, key, value)] = recipe, {key: value}
  left_out: dict[str, str] = {}
  for name, (recipe, values) in tried.items():
    if recipe in left_out:
      continue
    changed = configuration.with_recipe(config, recipe)
    try:
      changed = configuration.with_values(changed, values)
      experiment = training.make(changed, steps_per_epoch)
      state = jax.eval_shape(experiment.init, jax.random.key(0), batch)
      jax.eval_shape(experiment.train_step, state, batch)
    except ValueError as error:  # a refusal; any other error is a bug
      text = str(error).partition('\n')[0]
      left_out[name] = f'{type(error).__name__}: {text}'
  return left_out


def _choices(
  config: config_dict.ConfigDict,
) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
  """Yields recipe, key and choices of the recipes' own spaces."""
  for recipe in config.compare:
    # A composed recipe is not among them, so its choices are not checked.
    changes = config.recipes.to_dict().get(recipe, {})
    for key, draw in variants.draws(changes.get('space', {})):
      if 'choices' in draw:
        yield recipe, key, tuple(draw['choices'])


def _with_choice(recipe: str, key: str, value: Any) -> str:
  """A recipe with a choice, as reports name it; a key, so without dots."""
  return f'{recipe} with {key.rpartition(".")[2]} {value}'.replace('.', ',')
