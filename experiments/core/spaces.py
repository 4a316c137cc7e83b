"""A recipe's search space, candidates drawn from it, and its growth.

The space of a recipe joins the one that all recipes share,
`config.tuning.space`, and its own, `config.recipes[...].space`, or those of the
recipes that it is composed of. A space has keys, nested as in the
configuration, each with what it is drawn from, as `variants.expand` takes it.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict

import mimo_jax
from experiments import methods
from experiments.core import configuration
from experiments.core import grouping
from experiments.core import named
from experiments.core import variants
from experiments.methods import recipes

# Slot of a configuration -> the module of the function that it names.
_TAKEN_BY = {'method': methods, 'weighting': mimo_jax.weightings}

# The width of a range in steps, at first; it grows by one step at a time.
_STEPS = 4

Draw = Mapping[str, Any]  # of a range with its width in `steps`
Space = dict[str, Draw]  # dotted key -> what it is drawn from
Values = Mapping[str, Any]


class Edge(NamedTuple):
  """The low or high end of the range of a key."""

  key: str
  is_high: bool


def of_recipe(config: config_dict.ConfigDict, recipe: str) -> Space:
  """The space of a recipe; its own draw of a key replaces the shared one."""
  changes = recipes.changes_of(config.recipes.to_dict(), recipe)
  own = changes.get('space', {})
  shared = config.tuning.space.to_dict()
  found = dict(variants.draws(shared)) | dict(variants.draws(own))
  return {
    key: {**draw, 'steps': _STEPS} if 'low' in draw else draw
    for key, draw in found.items()
  }


def candidates(
  config: config_dict.ConfigDict,
  recipe: str,
  space: Space,
  number: int,
) -> list[variants.Variant]:
  """The first candidates of a recipe: its default, then seeded draws.

  The default is what the configuration has with the recipe. Recipes draw the
  same values of a key that they share. A larger number of candidates begins
  with those of a smaller one.

  Raises:
    ValueError: as `variants.expand`.
  """
  changed = configuration.with_recipe(config, recipe)
  default = variants.Variant({k: _default(changed, k) for k in sorted(space)})
  if not space or number == 1:
    return [default]
  draws = {
    key: {name: value for name, value in draw.items() if name != 'steps'}
    for key, draw in space.items()
  }
  drawn = variants.expand(
    changed, {}, draws, num_samples=number - 1, seed=config.tuning.seed
  )
  return [default, *drawn]


def _default(config: config_dict.ConfigDict, key: str) -> Any:
  """The configuration's value of a key, or the default of its function."""
  value = variants.present_value(config, key)
  slot, _, argument = key.partition('.')
  if value is None and slot in _TAKEN_BY and config[slot].name != 'joint':
    found = named.lookup(_TAKEN_BY[slot], config[slot].name)
    takes = inspect.signature(getattr(found, 'make', found)).parameters
    default = takes[argument].default if argument in takes else None
    return None if default is inspect.Parameter.empty else default
  return value


def edges(space: Space, values: Values) -> list[Edge]:
  """The edges at which values lie, in the outermost step of their ranges.

  A value outside of its range, as a default may be, is at no edge.

  Examples:
    >>> space = {
    ...   'rate': {'low': 0.01, 'high': 1.0, 'scale': 'log', 'steps': 4},
    ...   'decay': {'low': 0.1, 'high': 0.5, 'steps': 4},
    ... }
    >>> edges(space, {'rate': 0.5, 'decay': 0.3})
    [Edge(key='rate', is_high=True)]
    >>> edges(space, {'rate': 2.0, 'decay': 0.15})
    [Edge(key='decay', is_high=False)]
  """
  found = []
  for key, draw in space.items():
    if 'low' in draw and _is_within(draw, values[key]):
      if values[key] <= _moved(draw, draw['low'], 1):
        found.append(Edge(key, is_high=False))
      if values[key] >= _moved(draw, draw['high'], -1):
        found.append(Edge(key, is_high=True))
  return found


def grown(space: Space, grown_at: Iterable[Edge]) -> Space:
  """The space, one step wider at the edges of keys that it has.

  Examples:
    >>> grown({'c': {'low': 0.0, 'high': 4.0, 'steps': 4}}, [Edge('c', True)])
    {'c': {'low': 0.0, 'high': 5.0, 'steps': 5}}
  """
  wider: dict[str, Any] = {key: dict(draw) for key, draw in space.items()}
  for key, is_high in set(grown_at):
    if key in space:
      end, sign = ('high', 1) if is_high else ('low', -1)
      wider[key][end] = _moved(space[key], space[key][end], sign)
      wider[key]['steps'] += 1
  return wider


def beyond(
  config: config_dict.ConfigDict,
  recipe: str,
  space: Space,
  values: Values,
  edge: Edge,
) -> variants.Variant | None:
  """The values, moved one step beyond an edge; None if they are refused."""
  value = values[edge.key]
  moved = _moved(space[edge.key], value, 1 if edge.is_high else -1)
  rounded = round(moved) if isinstance(value, int) else float(f'{moved:.4g}')
  variant = variants.Variant({**values, edge.key: rounded})
  changed = configuration.with_recipe(config, recipe)
  try:
    grouping.check(changed, [variant])
  except ValueError:
    return None  # the range ends here, whatever is chosen
  return variant


def _is_within(draw: Draw, value: Any) -> bool:
  is_number = isinstance(value, int | float)
  return is_number and bool(draw['low'] <= value <= draw['high'])


def _moved(draw: Draw, value: float, steps: int) -> float:
  """A value, moved by some steps of a range."""
  low, high = draw['low'], draw['high']
  if draw.get('scale') == 'log':
    return float(value * (high / low) ** (steps / draw['steps']))
  return float(value + steps * (high - low) / draw['steps'])
