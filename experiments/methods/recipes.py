"""The recipes of a comparison: named changes of a configuration."""

from collections.abc import Mapping
from typing import Any

from experiments import methods

SEPARATOR = '+'  # between recipes that compose

# What trains by a weighting alone, and what weighs where nothing else does.
PLAIN: dict[str, dict[str, Any]] = {
  'method': {'name': 'weighted'},
  'weighting': {'name': 'joint'},
}

# Fixed, with nothing to choose, for ablations.
_FIXED = ('mimo_1', 'mimo_3', 'mimo_shrinking')


def recipes() -> dict[str, dict[str, Any]]:
  """Weightings of the losses, and every method.

  Name -> changes, for `configuration.with_recipe`; `changes_of` composes them.
  `joint` learns from the fused loss alone, as every method does without a
  weighting beside. `mimo_1` and `mimo_3` are MIMO mild and strong, with nothing
  to choose; the penalty of `mimo_shrinking` goes from strong to none while the
  model is trained. `grid` is what a comparison tries of each, see
  `experiments.compare`: keys of the configuration and their values. No recipe
  tries more than four.

  Examples:
    >>> found = recipes()
    >>> {'joint', 'sum', 'mgda', 'mimo', 'ogm', 'mmpareto'} <= set(found)
    True
    >>> found['ogm']['grid']
    {'method': {'alpha': (0.1, 0.3, 0.8)}}
  """
  mild = {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}
  strong = {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}
  tried = {'penalty': (0.5, 2.0), 'temperature': (0.3, 1.0)}
  shrinking = {
    'name': 'linear_schedule',
    'init_value': 3.0,
    'end_value': 0.0,
    'transition_steps': None,  # all of them
  }
  found: dict[str, dict[str, Any]] = {
    'joint': {'weighting': {'name': 'joint'}},
    'sum': {'weighting': {'name': 'sum'}},
    'mgda': {'weighting': {'name': 'mgda'}},
    'mimo': {'weighting': mild, 'grid': {'weighting': tried}},
    'mimo_1': {'weighting': dict(mild)},
    'mimo_3': {'weighting': strong},
    'mimo_shrinking': {'weighting': strong | {'penalty': shrinking}},
  }
  for name, module in sorted(vars(methods).items()):
    if not hasattr(module, 'GRID') or name == 'weighted':
      continue
    grid = {'method': dict(module.GRID)} if module.GRID else {}
    for recipe, options in getattr(module, 'RECIPES', {name: {}}).items():
      found[recipe] = {'method': {'name': name, **options}, 'grid': grid}
  return found


def changes_of(
  recipes: Mapping[str, Mapping[str, Any]], recipe: str
) -> dict[str, Any]:
  """What a recipe changes; of several, joined by +, what all of them do.

  They compose by slot: one may name a method and one a weighting. What they try
  is tried in all combinations.

  Args:
    recipes: those that there are, as `recipes` makes them.
    recipe: a name of one, or several as in 'mmcosine+mimo'.

  Raises:
    ValueError: if one is unknown, or two change the same.

  Examples:
    >>> found = changes_of(recipes(), 'mmcosine+mimo_1')
    >>> found['method'], found['weighting']['name']
    ({'name': 'mmcosine'}, 'mimo')
    >>> changes_of(recipes(), 'sum+mgda')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: The recipe 'sum+mgda' has two changes of weighting; ...
  """
  changes: dict[str, Any] = {}
  for name in recipe.split(SEPARATOR):
    if name not in recipes:
      of_whole = '' if name == recipe else f' (of {recipe!r})'
      raise ValueError(
        f'There is no recipe {name!r}{of_whole}; config.recipes has'
        f' {sorted(recipes)}.'
      )
    for topic, values in recipes[name].items():
      if topic == 'grid':
        values = {**changes.get('grid', {}), **values}
      elif topic in changes:
        raise ValueError(
          f'The recipe {recipe!r} has two changes of {topic}; expected one.'
        )
      changes[topic] = values
  return changes


def tuned() -> tuple[str, ...]:
  """The recipes that a fair comparison has: all but MIMO's fixed ones.

  Examples:
    >>> tuned()[:4]
    ('joint', 'sum', 'mgda', 'mimo')
  """
  return tuple(name for name in recipes() if name not in _FIXED)
