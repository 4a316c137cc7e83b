"""Which parameters learn, and how fast, by the names of their modules.

A pattern is a path in the params, `encoders_visual/layer1_0/conv1/kernel`, in
which `*` stands for anything. The path of a module stands for all that is in
it.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import optax


def check(
  params: Any, frozen: Sequence[str], learning_rates: Sequence[str]
) -> None:
  """Refuses patterns that match no parameter, and freezing all parameters.

  Raises:
    ValueError: if there is such a pattern, or nothing is left to learn.
  """
  paths = [path for path, _ in jax.tree.leaves_with_path(params)]
  rates = [_factor(entry)[0] for entry in learning_rates]
  for key, patterns in (('frozen', frozen), ('learning_rates', rates)):
    for pattern in patterns:
      if not any(_matches(path, [pattern]) for path in paths):
        parts = sorted({_name(path[:1]) for path in paths})
        raise ValueError(
          f'config.{key} has {pattern!r}, which matches no parameter; they are'
          f' in {parts}.'
        )
  if all(_matches(path, frozen) for path in paths):
    raise ValueError(
      f'config.frozen is {tuple(frozen)}, which matches all parameters;'
      ' expected that some are left to learn.'
    )


def split(params: Any, frozen: Sequence[str]) -> tuple[Any, Any]:
  """Splits params into those that learn, and those that match a pattern.

  Each has None where the other has a leaf, so that frozen parameters have
  neither gradients nor optimizer state.

  Examples:
    >>> params = {'encoders_a': {'kernel': 1.0}, 'fusion': {'kernel': 2.0}}
    >>> learns, stays = split(params, ['encoders_*'])
    >>> learns
    {'encoders_a': {'kernel': None}, 'fusion': {'kernel': 2.0}}
    >>> merge(learns, stays) == params
    True
  """
  stays = jax.tree.map_with_path(
    lambda path, leaf: leaf if _matches(path, frozen) else None, params
  )
  learns = jax.tree.map_with_path(
    lambda path, leaf: None if _matches(path, frozen) else leaf, params
  )
  return learns, stays


def merge(learns: Any, stays: Any) -> Any:
  """Undoes `split`."""
  return jax.tree.map(
    lambda one, other: other if one is None else one,
    learns,
    stays,
    is_leaf=lambda leaf: leaf is None,
  )


def learns(path: Sequence[str], frozen: Sequence[str]) -> bool:
  """Whether a parameter, given by its keys, matches none of the patterns.

  Examples:
    >>> learns(('encoders_a', 'kernel'), ['encoders_a']), learns(('b',), [])
    (False, True)
  """
  return not _is_match('/'.join(path), frozen)


def frozen_encoders(
  modalities: Iterable[str], frozen: Sequence[str]
) -> tuple[str, ...]:
  """The modalities whose whole encoder matches a pattern.

  Examples:
    >>> frozen_encoders(['audio', 'visual'], ['encoders_audio', '*/kernel'])
    ('audio',)
  """
  return tuple(
    name
    for name in modalities
    if any(fnmatch.fnmatchcase(f'encoders_{name}', one) for one in frozen)
  )


def scaled(
  learning_rates: Sequence[str],
) -> optax.GradientTransformation:
  """Scales updates by factors, each `'pattern=factor'`.

  The first pattern that matches counts. Chained after an optimizer, it scales
  the learning rate of the parameters that match.

  Raises:
    ValueError: if an entry is malformed.
  """
  factors = dict(map(_factor, learning_rates))

  def scale(path: Any, leaf: Any) -> Any:
    found = (f for pattern, f in factors.items() if _matches(path, [pattern]))
    return leaf * next(found, 1.0)

  return optax.stateless(
    lambda updates, _: jax.tree.map_with_path(scale, updates)
  )


def _factor(entry: str) -> tuple[str, float]:
  pattern, sign, number = entry.partition('=')
  try:
    factor = float(number)
  except ValueError:
    sign, factor = '', -1.0
  if not (pattern and sign and 0 <= factor < float('inf')):
    raise ValueError(
      f"config.learning_rates has {entry!r}; expected 'PATTERN=FACTOR', as"
      " 'encoders_visual/layer1_*=0.1'."
    )
  return pattern, factor


def _matches(path: Any, patterns: Sequence[str]) -> bool:
  return _is_match(_name(path), patterns)


def _is_match(name: str, patterns: Sequence[str]) -> bool:
  return any(
    fnmatch.fnmatchcase(name, one) or fnmatch.fnmatchcase(name, f'{one}/*')
    for one in patterns
  )


def _name(path: Any) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator='/')
