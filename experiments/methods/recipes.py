"""The recipes of a comparison: named changes to a configuration."""

import inspect
from collections.abc import Mapping
from typing import Any

import mimo_jax
from experiments import methods

SEPARATOR = '+'  # between recipes that compose

# The method of recipes that name a weighting only, and the weighting of recipes
# that name a method only.
PLAIN: dict[str, dict[str, Any]] = {
  'method': {'name': 'weighted'},
  'weighting': {'name': 'joint'},
}

# The baselines that every comparison includes: without them, it cannot say what
# balancing is worth.
REFERENCES = (
  'joint',
  'sum',
  'unimodal',
  'ensemble',
  'pretrained_frozen',
  'pretrained_finetuned',
)

# Recipes without a space, for ablations.
_FIXED = ('mimo_1', 'mimo_3')

# Composed recipes that a fair comparison includes.
_COMPOSED = ('mmcosine+mimo', 'mmcosine+mgda')


def recipes() -> dict[str, dict[str, Any]]:
  """All recipes: some weightings, and every method.

  Name -> changes, for `configuration.with_recipe`; `changes_of` composes them.
  `joint` learns from the fused loss alone, as every method does that is not
  given a weighting. `mimo_1` and `mimo_3` are a mild and a strong MIMO without
  a space; the penalty of `mimo_shrinking` falls from strong to none during
  training. `space` has the keys of the configuration that a comparison draws
  for this recipe, besides those that it draws for all; see `core.spaces`. Their
  defaults are tried, too.

  Examples:
    >>> found = recipes()
    >>> {'joint', 'sum', 'mgda', 'mimo', 'ogm', 'mmpareto'} <= set(found)
    True
    >>> found['ogm']['method']
    {'name': 'ogm', 'alpha': 0.3}
    >>> found['ogm']['space']
    {'method': {'alpha': {'low': 0.1, 'high': 1.0, 'scale': 'log'}}}
  """
  mild = {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}
  strong = {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}
  drawn = {
    'penalty': {'low': 0.3, 'high': 5.0, 'scale': 'log'},
    'temperature': {'low': 0.1, 'high': 3.0, 'scale': 'log'},
  }
  shrinking = {
    'name': 'linear_schedule',
    'init_value': 3.0,
    'end_value': 0.0,
    'transition_steps': None,  # all steps
  }
  found: dict[str, dict[str, Any]] = {
    'joint': {'weighting': {'name': 'joint'}},
    'sum': {'weighting': {'name': 'sum'}},
    'mgda': {'weighting': {'name': 'mgda'}},
    'mimo': {'weighting': mild, 'space': {'weighting': drawn}},
    'mimo_1': {'weighting': dict(mild)},
    'mimo_3': {'weighting': strong},
    'mimo_shrinking': {
      'weighting': strong | {'penalty': shrinking},
      'space': {
        'weighting': drawn | {'penalty': {'init_value': drawn['penalty']}}
      },
    },
  }
  for name, module in sorted(vars(methods).items()):
    if not hasattr(module, 'SPACE') or name == 'weighted':
      continue
    arguments = inspect.signature(module.make).parameters
    defaults = {key: arguments[key].default for key in module.SPACE}
    space = {'method': dict(module.SPACE)} if module.SPACE else {}
    for recipe, options in getattr(module, 'RECIPES', {name: {}}).items():
      method = {'name': name, **defaults, **options}
      found[recipe] = {'method': method, 'space': space}
  return found


def changes_of(
  recipes: Mapping[str, Mapping[str, Any]], recipe: str
) -> dict[str, Any]:
  """The changes of a recipe, or of several that are joined by +.

  Recipes compose by slot: one may name a method, and another one a weighting.
  Their spaces are joined. Each rule is a recipe, too: that weighting, with its
  default arguments. A rule of `mimo_jax.weightings` has its name there, one of
  your own is 'package.module:function'.

  Args:
    recipes: all recipes, as `recipes` makes them.
    recipe: the name of one, or several as in 'mmcosine+mimo'.

  Raises:
    ValueError: if one is unknown, or two change the same slot.

  Examples:
    >>> found = changes_of(recipes(), 'mmcosine+mimo_1')
    >>> found['method'], found['weighting']['name']
    ({'name': 'mmcosine', 'scale': 15.0}, 'mimo')
    >>> changes_of(recipes(), 'upgrad')
    {'weighting': {'name': 'upgrad'}}
    >>> changes_of(recipes(), 'sum+mgda')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: The recipe 'sum+mgda' has two changes of weighting; ...
  """
  changes: dict[str, Any] = {}
  for name in recipe.split(SEPARATOR):
    if name not in recipes and not is_rule(name):
      of_whole = '' if name == recipe else f' (of {recipe!r})'
      raise ValueError(
        f'There is no recipe {name!r}{of_whole}; config.recipes has'
        f' {sorted(recipes)}, and every rule of mimo_jax.weightings is one.'
      )
    rule = {'weighting': {'name': name}}
    for topic, values in recipes.get(name, rule).items():
      if topic == 'space':
        values = {**changes.get('space', {}), **values}
      elif topic in changes:
        raise ValueError(
          f'The recipe {recipe!r} has two changes of {topic}; expected one.'
        )
      changes[topic] = values
  return changes


def is_rule(name: str) -> bool:
  """Whether a name is a rule's: of `mimo_jax`, or 'package.module:function'."""
  return name in mimo_jax.weightings.__all__ or ':' in name


def tuned() -> tuple[str, ...]:
  """The recipes of a fair comparison: all but MIMO's fixed ones.

  MIMO and MGDA on cosine fusion are among them.

  Examples:
    >>> tuned()[:4], tuned()[-1]
    (('joint', 'sum', 'mgda', 'mimo'), 'mmcosine+mgda')
  """
  alone = [name for name in recipes() if name not in _FIXED]
  return (*alone, *_COMPOSED)
