"""What a sweep tries: combinations of values of a configuration's keys."""

import ast
import collections
import difflib
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import config_dict

from experiments.core import configuration

# Keys that do not change a run, or whose place in a sweep is another one.
_REFUSED = {
  'seed': 'a sweep has the seeds from config.seed on, config.num_seeds of them',
  'num_seeds': 'every combination has the same seeds',
  'sweep': 'it is what says so',
  'recipes': 'sweep config.method and config.weighting instead',
  'compare': 'it is for experiments.compare',
  'subject': 'it is for experiments.compare',
  'num_tuning_seeds': 'it is for experiments.compare',
  'parallel': 'the runs of a sweep are spread over the devices',
  'evaluation': 'all combinations must be evaluated alike',
  'log_every_steps': 'it changes no result',
  'checkpoint_every_steps': 'it changes no result',
}
_SCALES = ('linear', 'log')


def combinations(config: config_dict.ConfigDict) -> list[dict[str, Any]]:
  """All combinations of values that `config.sweep` describes.

  Args:
    config: with `sweep`: `grid`, the configuration's keys, nested as they are
      there, and tuples of values; `random`, such keys and, for each,
      `{'low': a, 'high': b, 'scale': 'linear'}` (or 'log'), or
      `{'choices': (...)}`; `num_samples`, how many random combinations; and
      `seed`, which draws them. A value that is a mapping, as all of `weighting`
      or a schedule, replaces what is there. Where all values of a key are
      numbers, and one of them or the configuration's is a float, all are
      floats; what is drawn for an integer is rounded.

  Returns:
    For each combination dotted key -> value: every one of the grid's, whose
    keys are in the order of the alphabet and the last of which changes first,
    with every random one. Each random key has a stream of its own, so more
    samples or other keys change no draw.

  Raises:
    ValueError: if there is nothing to try, a key is unknown or cannot be swept,
      or values do not fit it.

  Examples:
    >>> config = config_dict.ConfigDict({
    ...   'weighting': {'name': 'mimo', 'penalty': 3.0},
    ...   'sweep': {
    ...     'grid': {'weighting': {'penalty': (1, 3)}},
    ...     'random': {},
    ...     'num_samples': 0,
    ...     'seed': 0,
    ...   },
    ... })
    >>> combinations(config)
    [{'weighting.penalty': 1.0}, {'weighting.penalty': 3.0}]
  """
  settings = config.sweep.to_dict()
  grid = dict(sorted(_leaves(settings['grid'], _is_no_mapping)))
  random = dict(sorted(_leaves(settings['random'], _is_draw)))
  for key in (*grid, *random):
    _check_key(config, key)
  _check_apart((*grid, *random))
  if not grid and not random:
    raise ValueError(
      'There is nothing to sweep. Give --grid=weighting.penalty=0.3,1,3, or'
      ' --random=optimizer.learning_rate=log:1e-3:1e-1, or set config.sweep in'
      ' the configuration file.'
    )
  columns = {key: _grid_values(config, key, grid[key]) for key in grid}
  number = settings['num_samples']
  if random and number < 1:
    raise ValueError(
      f'config.sweep.num_samples is {number}; expected at least 1, for'
      f' {sorted(random)} to be drawn.'
    )
  draws = {
    key: _draw(config, key, random[key], number, settings['seed'])
    for key in random
  }
  samples = [
    dict(zip(draws, values, strict=True))
    for values in zip(*draws.values(), strict=True)
  ]
  return [
    dict(zip(columns, values, strict=True)) | sample
    for values in itertools.product(*columns.values())
    for sample in samples or [{}]
  ]


def with_flags(
  config: config_dict.ConfigDict, grid: Sequence[str], random: Sequence[str]
) -> config_dict.ConfigDict:
  """A configuration with what the command line adds to its sweep.

  Args:
    config: with `sweep`; unchanged.
    grid: each `key=value,value,...`. Values are Python's; a word that is none
      is a string.
    random: each `key=log:low:high`, `key=linear:low:high`, or
      `key=value,value,...` for one of these.

  Returns:
    A changed copy; a key given here replaces that of the configuration.

  Raises:
    ValueError: if one is written otherwise.

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
    for text in texts:
      key, _, rest = text.partition('=')
      if not key or not rest:
        raise ValueError(
          f'--{flag} was given {text!r}; expected key=value,value,...'
          + (', or key=log:low:high' if flag == 'random' else '')
          + ', with a key of the configuration as weighting.penalty.'
        )
      *above, last = key.split('.')
      place = settings['sweep'][flag]
      for i, name in enumerate(above):
        place = place.setdefault(name, {})
        if _is_draw(place):
          part = '.'.join(above[: i + 1])
          raise ValueError(
            f'{part} and {key}, a part of it, cannot both be swept.'
          )
      place[last] = _values(rest) if flag == 'grid' else _range(text, rest)
  return config_dict.ConfigDict(settings).lock()


def with_values(
  config: config_dict.ConfigDict, values: Mapping[str, Any]
) -> config_dict.ConfigDict:
  """The configuration of one run of a sweep, which has no sweep itself.

  Args:
    config: unchanged.
    values: as `configuration.with_values` takes them.

  Returns:
    A changed copy.
  """
  none: dict[str, Any] = {}
  if 'sweep' in config:
    none = {'sweep.grid': {}, 'sweep.random': {}}
  return configuration.with_values(config, none | dict(values))


def label(values: Mapping[str, Any]) -> str:
  """A combination, for people.

  Examples:
    >>> label({'weighting.name': 'mimo', 'weighting.penalty': 0.123456})
    'weighting.name=mimo, weighting.penalty=0.1235'
  """
  return ', '.join(f'{key}={text(value)}' for key, value in values.items())


def text(value: Any) -> str:
  """A value, for people."""
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _leaves(settings: Any, is_leaf: Any) -> Iterator[tuple[str, Any]]:
  for key, value in settings.items():
    if is_leaf(value):
      yield key, value
    else:
      yield from ((f'{key}.{rest}', v) for rest, v in _leaves(value, is_leaf))


def _is_no_mapping(value: Any) -> bool:
  return not isinstance(value, Mapping)


def _is_draw(value: Any) -> bool:
  return _is_no_mapping(value) or bool({'low', 'high', 'choices'} & set(value))


def _check_key(config: config_dict.ConfigDict, key: str) -> None:
  """Refuses what the configuration does not have, and what is no run's own."""
  first = key.split('.')[0]
  if first in _REFUSED:
    raise ValueError(f'{key} cannot be swept: {_REFUSED[first]}.')
  settings = config.to_dict()
  place: Any = settings
  for name in key.split('.'):
    # What has a name is a function's arguments, which may be more than are set;
    # but for `data`, whose name is the data set's.
    is_open = isinstance(place, Mapping) and 'name' in place
    if isinstance(place, Mapping) and (
      name in place or (is_open and place is not settings['data'])
    ):
      place = place.get(name)
    else:
      every = [path for path, _ in configuration.flatten(config)]
      near = difflib.get_close_matches(key, every, n=1)
      raise ValueError(
        f'The configuration has no key {key!r}'
        + (f'; did you mean {near[0]!r}?' if near else '.')
      )


def _check_apart(keys: Sequence[str]) -> None:
  """Refuses keys that are given twice, or one below the other."""
  repeated = [
    k for k, number in collections.Counter(keys).items() if number > 1
  ]
  if repeated:
    raise ValueError(
      f'{repeated} are in the grid and are random; expected one of both.'
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
  if len({json.dumps(value, sort_keys=True) for value in fitting}) < len(
    values
  ):
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
  # One number a draw: the first ones stay when more are drawn.
  shares = generator.uniform(size=number)
  if is_log:
    drawn = low * (high / low) ** shares
  else:
    drawn = low + (high - low) * shares
  present = _present(config, key)
  if isinstance(present, int) and not isinstance(present, bool):
    return [round(value) for value in drawn.tolist()]
  return _fitting(config, key, drawn.tolist())


def _fitting(
  config: config_dict.ConfigDict, key: str, values: Sequence[Any]
) -> list[Any]:
  """The values, as floats where they belong together as such."""
  present = _present(config, key)
  if all(map(_is_number, values)) and any(
    isinstance(value, float) for value in (present, *values)
  ):
    values = [float(value) for value in values]
  for value in values:
    # None and a mapping, such as a schedule, may stand for anything.
    if not (
      present is None
      or value is None
      or isinstance(present, Mapping)
      or isinstance(value, Mapping | type(present))
      or (isinstance(present, tuple) and isinstance(value, list))
    ) or (isinstance(value, bool) and not isinstance(present, bool | None)):
      raise ValueError(
        f'{key} was given {value!r} to try; expected values like'
        f' {present!r}, which the configuration has.'
      )
  return list(values)


def _present(config: config_dict.ConfigDict, key: str) -> Any:
  """What the configuration has there; None if nothing."""
  place: Any = config.to_dict()
  for name in key.split('.'):
    place = place.get(name) if isinstance(place, Mapping) else None
  return place


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _values(given: str) -> tuple[Any, ...]:
  """The values of a flag: Python's literals, or words."""
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
  """What a flag says of a random key."""
  scale, *ends = given.split(':')
  if scale not in _SCALES:
    return {'choices': _values(given)}
  numbers = [_literal(end) for end in ends]
  if len(numbers) != 2 or not all(map(_is_number, numbers)):
    raise ValueError(
      f'--random was given {flag!r}; expected key={scale}:low:high.'
    )
  return {'low': numbers[0], 'high': numbers[1], 'scale': scale}
