"""The recipes of a comparison: named changes of a configuration."""

from typing import Any

from experiments import methods


def recipes() -> dict[str, dict[str, Any]]:
  """Joint training, weightings of the losses, and every method beside.

  Name -> changes, for `configuration.with_recipe`. Joint training learns from
  the fused loss alone; its uni-modal outputs stand on stopped gradients, so
  that they can be read without disturbing it. `mimo_1` and `mimo_3` are MIMO
  mild and strong, with nothing to choose. `grid` is what a comparison tries of
  each, see `experiments.compare`: keys of the configuration and their values.
  No method tries more than four.

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
  found: dict[str, dict[str, Any]] = {
    'joint': {'weighting': {'name': 'sum'}, 'model': {'detach_heads': True}},
    'sum': {'weighting': {'name': 'sum'}},
    'mgda': {'weighting': {'name': 'mgda'}},
    'mimo': {'weighting': mild, 'grid': {'weighting': tried}},
    'mimo_1': {'weighting': dict(mild)},
    'mimo_3': {'weighting': strong},
  }
  for name, module in sorted(vars(methods).items()):
    if hasattr(module, 'GRID') and name != 'weighted':
      grid = {'method': dict(module.GRID)}
      found[name] = {'method': {'name': name}, 'grid': grid}
  return found


def tuned() -> tuple[str, ...]:
  """The recipes that a fair comparison has: all but MIMO's fixed ones.

  Examples:
    >>> tuned()[:4]
    ('joint', 'sum', 'mgda', 'mimo')
  """
  return tuple(n for n in recipes() if n not in ('mimo_1', 'mimo_3'))
