"""Variants of a configuration, made by a grid or random search.

A variant sets some of a configuration's keys. The `grid` and `random` of
`config.sweep`, the flags `--grid` and `--random`, and the `space` of a recipe
are all written in the same way, and `expand` makes variants of them.
"""

import ast
import collections
import difflib
import itertools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from ml_collections import config_dict

from experiments.core import configuration

# Keys that cannot be swept -> why.
_REFUSED = {
  'seed': 'a sweep has the seeds from config.seed on, config.num_seeds of them',
  'num_seeds': 'every variant has the same seeds',
  'sweep': 'it describes the sweep itself',
  'recipes': 'sweep config.method and config.weighting instead',
  'compare': 'it is for experiments.compare',
  'subject': 'it is for experiments.compare',
  'tuning': 'it is for experiments.compare',
  'parallel': 'the runs of a sweep are spread over the devices',
  'evaluation': 'all variants must be evaluated alike',
  'diagnostics': 'it changes no result',
  'log_every_steps': 'it changes no result',
  'checkpoint_every_steps': 'it changes no result',
}
_SCALES = ('linear', 'log')


class Variant(NamedTuple):
  """Some values of a configuration's keys."""

  values: Mapping[str, Any]  # dotted key -> value; {} changes nothing

  @property
  def label(self) -> str:
    """The variant as a text for people.

    Examples:
      >>> Variant({'weighting.name': 'mimo', 'weighting.c': 0.123456}).label
      'weighting.name=mimo, weighting.c=0.123456'
    """
    return ', '.join(f'{k}={text(value)}' for k, value in self.values.items())

  def of(self, config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """A changed copy of a configuration."""
    return configuration.with_values(config, self.values)


def of_sweep(config: config_dict.ConfigDict) -> list[Variant]:
  """The variants that `config.sweep` describes.

  Raises:
    ValueError: as `expand`, or if there is nothing to try.
  """
  settings = config.sweep.to_dict()
  if not settings['grid'] and not settings['random']:
    raise ValueError(
      'There is nothing to sweep. Give --grid=weighting.penalty=0.3,1,3, or'
      ' --random=optimizer.learning_rate=log:1e-3:1e-1, or set config.sweep in'
      ' the configuration file.'
    )
  return expand(config, **settings)


def expand(
  config: config_dict.ConfigDict,
  grid: Mapping[str, Any],
  random: Mapping[str, Any] | None = None,
  num_samples: int = 1,
  seed: int = 0,
) -> list[Variant]:
  """All variants that a grid and random draws describe.

  Args:
    config: what is varied.
    grid: keys, nested as in the configuration, each with a tuple of values. A
      value that is a mapping, such as a whole `weighting` or a schedule,
      replaces what is there.
    random: keys likewise, each with `{'low': a, 'high': b, 'scale': 'linear'}`
      (or 'log'), or `{'choices': (...)}`.
    num_samples: how many random draws there are.
    seed: of the draws. Each key has its own stream, so that more samples or
      other keys change no draw.

  Returns:
    Every combination of the grid with every random draw. The grid's keys are
    sorted, and the last one varies fastest. If all values of a key are numbers,
    and one of them or the configuration's value is a float, all become floats.
    Draws of an integer key are rounded.

  Raises:
    ValueError: if a key is unknown or cannot be varied, or values do not fit
      it.

  Examples:
    >>> weighting = {'name': 'mimo', 'penalty': 3.0}
    >>> config = config_dict.ConfigDict({'weighting': weighting})
    >>> expand(config, {'weighting': {'penalty': (1, 3)}})[1].values
    {'weighting.penalty': 3.0}
  """
  in_grid = dict(sorted(traverse_util.flatten_dict(grid, sep='.').items()))
  drawn = dict(draws(random or {}))
  for key in (*in_grid, *drawn):
    _check_key(config, key)
  _check_apart((*in_grid, *drawn))
  if drawn and num_samples < 1:
    raise ValueError(
      f'config.sweep.num_samples is {num_samples}; expected at least 1, for'
      f' {sorted(drawn)} to be drawn.'
    )
  columns = [_grid_values(config, k, values) for k, values in in_grid.items()]
  samples = zip(
    *(_draw(config, k, draw, num_samples, seed) for k, draw in drawn.items()),
    strict=True,
  )
  cells = itertools.product(itertools.product(*columns), [*samples] or [()])
  return [
    Variant(dict(zip((*in_grid, *drawn), (*values, *sample), strict=True)))
    for values, sample in cells
  ]


def with_flags(
  config: config_dict.ConfigDict, grid: Sequence[str], random: Sequence[str]
) -> config_dict.ConfigDict:
  """A configuration with what the command line adds to its sweep.

  Args:
    config: with `sweep`; unchanged.
    grid: each `key=value,value,...`. A value is a Python literal; any other
      word is a string.
    random: each `key=log:low:high`, `key=linear:low:high`, or
      `key=value,value,...` for one of these.

  Returns:
    A changed copy; a key given here replaces that of the configuration.

  Raises:
    ValueError: if one is malformed.

  Examples:
    >>> empty = {'grid': {}, 'random': {}}
    >>> config = config_dict.ConfigDict({'sweep': empty})
    >>> changed = with_flags(
    ...   config, ['weighting.name=mgda,sum'], ['method.alpha=log:0.01:1']
    ... )
    >>> changed.sweep.grid.to_dict()
    {'weighting': {'name': ('mgda', 'sum')}}
    >>> changed.sweep.random.method.alpha.to_dict()
    {'high': 1, 'low': 0.01, 'scale': 'log'}
  """
  settings = config.to_dict()
  for flag, texts in (('grid', grid), ('random', random)):
    given = dict(draws(settings['sweep'][flag]))
    for text in texts:
      key, _, rest = text.partition('=')
      if not key or not rest:
        raise ValueError(
          f'--{flag} was given {text!r}; expected key=value,value,...'
          + (', or key=log:low:high' if flag == 'random' else '')
          + ', with a key of the configuration as weighting.penalty.'
        )
      given[key] = _values(rest) if flag == 'grid' else _range(text, rest)
    _check_apart([*given])
    settings['sweep'][flag] = traverse_util.unflatten_dict(given, sep='.')
  return config_dict.ConfigDict(settings).lock()


def draws(space: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """Dotted key and draw of each entry of a space, whose keys may be nested."""
  found = traverse_util.flatten_dict(
    space, is_leaf=lambda path, value: path and _is_draw(value), sep='.'
  )
  return sorted(found.items())


def present_value(config: config_dict.ConfigDict, key: str) -> Any:
  """The value of a configuration at a dotted key; None if there is none."""
  place: Any = config.to_dict()
  for name in key.split('.'):
    place = place.get(name) if isinstance(place, Mapping) else None
  return place


def text(value: Any) -> str:
  """A value as a text for people; different values have different texts."""
  if isinstance(value, float) and float(short := f'{value:g}') == value:
    return short
  return str(value)


def _is_draw(value: Any) -> bool:
  return not isinstance(value, Mapping) or bool(
    {'low', 'high', 'choices'} & set(value)
  )


def _check_key(config: config_dict.ConfigDict, key: str) -> None:
  """Refuses keys that the configuration lacks or that cannot be swept."""
  first = key.split('.')[0]
  if first in _REFUSED:
    raise ValueError(f'{key} cannot be swept: {_REFUSED[first]}.')
  settings = config.to_dict()
  place: Any = settings
  for name in key.split('.'):
    inside = place if isinstance(place, Mapping) else {}
    # A mapping with a name holds a function's arguments, and those that are not
    # set may be given. Not so `data`, whose name is that of the data set.
    is_open = 'name' in inside and inside is not settings.get('data')
    place = inside.get(name)
    if name not in inside and not is_open:
      near = difflib.get_close_matches(key, configuration.flatten(config), n=1)
      raise ValueError(
        f'The configuration has no key {key!r}'
        + (f'; did you mean {near[0]!r}?' if near else '.')
      )


def _check_apart(keys: Sequence[str]) -> None:
  """Refuses a key that is given twice, or that is part of another one."""
  if repeated := [k for k, n in collections.Counter(keys).items() if n > 1]:
    raise ValueError(
      f'{repeated} are in the grid and random; expected one of the two.'
    )
  for one, other in itertools.permutations(keys, 2):
    if other.startswith(f'{one}.'):
      raise ValueError(
        f'{one} and {other}, a part of it, cannot both be swept.'
      )


def _grid_values(
  config: config_dict.ConfigDict, key: str, values: Any
) -> list[Any]:
  if not isinstance(values, list | tuple) or not values:
    raise ValueError(
      f'The grid has {values!r} for {key}; expected a tuple of values.'
    )
  fitting = _fitting(config, key, values)
  different = {json.dumps(value, sort_keys=True) for value in fitting}
  if len(different) < len(values):
    raise ValueError(f'The grid has equal values for {key}: {values!r}.')
  return fitting


def _draw(
  config: config_dict.ConfigDict, key: str, draw: Any, number: int, seed: int
) -> list[Any]:
  """Some random values of one key."""
  generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
  if isinstance(draw, Mapping) and set(draw) == {'choices'}:
    choices = _grid_values(config, key, draw['choices'])
    return [choices[i] for i in generator.integers(len(choices), size=number)]
  keys = {'low', 'high', 'scale'}
  if (
    not isinstance(draw, Mapping)
    or set(draw) | {'scale'} != keys
    or draw.get('scale', 'linear') not in _SCALES
    or not all(_is_number(draw[end]) for end in ('low', 'high'))
  ):
    raise ValueError(
      f'{key} is to be drawn from {draw!r}; expected'
      " {'low': number, 'high': number, 'scale': 'linear' or 'log'}, or"
      " {'choices': (...)}."
    )
  low, high = draw['low'], draw['high']
  is_log = draw.get('scale') == 'log'
  if not -math.inf < low < high < math.inf or (is_log and low <= 0):
    raise ValueError(
      f'{key} is to be drawn between {low} and {high}; expected finite numbers,'
      ' the second one higher' + (', both above 0.' if is_log else '.')
    )
  # One number per draw: the first ones stay when more are drawn.
  shares = generator.uniform(size=number)
  if is_log:
    drawn = low * (high / low) ** shares
  else:
    drawn = low + (high - low) * shares
  present = present_value(config, key)
  if isinstance(present, int) and not isinstance(present, bool):
    return [round(value) for value in drawn.tolist()]
  # Four digits, so that a draw can be typed by hand.
  return _fitting(config, key, [float(f'{value:.4g}') for value in drawn])


def _fitting(
  config: config_dict.ConfigDict, key: str, values: Sequence[Any]
) -> list[Any]:
  """The values, checked, and made floats if any of them is a float."""
  present = present_value(config, key)
  if all(map(_is_number, values)) and any(
    isinstance(value, float) for value in (present, *values)
  ):
    values = [float(value) for value in values]
  for value in values:
    if not _may_replace(key, present, value):
      raise ValueError(
        f'{key} was given {value!r} to try; expected values like'
        f' {present!r}, which the configuration has.'
      )
  return list(values)


def _may_replace(key: str, present: Any, value: Any) -> bool:
  """Whether a value may replace the one that a configuration has at a key."""
  if isinstance(value, bool) and not isinstance(present, bool | None):
    return False
  if isinstance(value, Mapping):  # a schedule, or a whole part
    return True
  if isinstance(present, Mapping):  # by a number or None, unless it is a part
    return '.' in key and not isinstance(value, str)
  if isinstance(present, tuple) and isinstance(value, list):
    return True
  return present is None or value is None or isinstance(value, type(present))


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _values(given: str) -> tuple[Any, ...]:
  """The values of a flag: Python literals, or words."""
  try:
    found = ast.literal_eval(f'({given},)')
  except (SyntaxError, ValueError):
    found = tuple(_literal(word) for word in given.split(','))
  return tuple(found)


def _literal(word: str) -> Any:
  try:
    return ast.literal_eval(word.strip())
  except (SyntaxError, ValueError):
    return word.strip()


def _range(flag: str, given: str) -> dict[str, Any]:
  """The draw that a flag describes."""
  scale, *ends = given.split(':')
  if scale not in _SCALES:
    return {'choices': _values(given)}
  numbers = [_literal(end) for end in ends]
  if len(numbers) != 2 or not all(map(_is_number, numbers)):
    raise ValueError(
      f'--random was given {flag!r}; expected key={scale}:low:high.'
    )
  return {'low': numbers[0], 'high': numbers[1], 'scale': scale}
