"""Which parameters learn, and how fast, by the names of their modules.

A pattern is a place in the params, `encoders_visual/layer1_0/conv1/kernel`, of
which `*` stands for any part, or that of a module, for all that is in it.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import optax


def split(params: Any, frozen: Sequence[str]) -> tuple[Any, Any]:
  """Params that learn, and those that match one of the patterns.

  Each has None where the other has a leaf, so that neither gradients nor an
  optimizer's state are made of what is frozen.

  Raises:
    ValueError: if a pattern matches nothing, or all parameters match.

  Examples:
    >>> params = {'encoders_a': {'kernel': 1.0}, 'fusion': {'kernel': 2.0}}
    >>> learns, stays = split(params, ['encoders_*'])
    >>> learns
    {'encoders_a': {'kernel': None}, 'fusion': {'kernel': 2.0}}
    >>> merge(learns, stays) == params
    True
  """
  _check(params, frozen, 'frozen')
  stays = jax.tree.map_with_path(
    lambda path, leaf: leaf if _matches(path, frozen) else None, params
  )
  learns = jax.tree.map_with_path(
    lambda path, leaf: None if _matches(path, frozen) else leaf, params
  )
  if frozen and not jax.tree.leaves(learns):
    raise ValueError(
      f'config.frozen is {tuple(frozen)}, which are all parameters; expected'
      ' that some are left to learn.'
    )
  return learns, stays


def merge(learns: Any, stays: Any) -> Any:
  """The params that were split."""
  return jax.tree.map(
    lambda one, other: other if one is None else one,
    learns,
    stays,
    is_leaf=lambda leaf: leaf is None,
  )


def frozen_encoders(params: Any, frozen: Sequence[str]) -> tuple[str, ...]:
  """The modalities whose encoder does not learn at all.

  Examples:
    >>> params = {'encoders_a': {'kernel': 1.0}, 'encoders_b': {'bias': 2.0}}
    >>> frozen_encoders(params, ['encoders_a', '*/kernel'])
    ('a',)
  """
  return tuple(
    name.removeprefix('encoders_')
    for name, module in params.items()
    if name.startswith('encoders_')
    and jax.tree.leaves(module)
    and all(
      _matches((jax.tree_util.DictKey(name), *path), frozen)
      for path, _ in jax.tree.leaves_with_path(module)
    )
  )


def scaled(
  learning_rates: Sequence[str],
) -> optax.GradientTransformation:
  """Scales updates by factors, each `'pattern=factor'`.

  Of several that match the first counts. It stands after an optimizer, whose
  learning rate it changes for what matches.

  Raises:
    ValueError: if an entry is written otherwise; by its `init`, if a pattern
      matches nothing.

  Examples:
    >>> updates = {'encoders_a': {'kernel': 1.0}, 'fusion': {'kernel': 2.0}}
    >>> slower = scaled(['encoders_*=0.1'])
    >>> slower.update(updates, slower.init(updates))[0]
    {'encoders_a': {'kernel': 0.1}, 'fusion': {'kernel': 2.0}}
  """
  factors = dict(map(_factor, learning_rates))

  def init(params: Any) -> optax.EmptyState:
    _check(params, tuple(factors), 'learning_rates')
    return optax.EmptyState()

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params

    def scale(path: Any, leaf: Any) -> Any:
      found = (f for pattern, f in factors.items() if _matches(path, [pattern]))
      return leaf * next(found, 1.0)

    return jax.tree.map_with_path(scale, updates), state

  return optax.GradientTransformation(init, update)


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
  name = _name(path)
  return any(
    fnmatch.fnmatchcase(name, one) or fnmatch.fnmatchcase(name, f'{one}/*')
    for one in patterns
  )


def _check(params: Any, patterns: Sequence[str], key: str) -> None:
  """Refuses a pattern that matches no parameter."""
  paths = [path for path, _ in jax.tree.leaves_with_path(params)]
  for pattern in patterns:
    if not any(_matches(path, [pattern]) for path in paths):
      parts = sorted({_name(path[:1]) for path in paths})
      raise ValueError(
        f'config.{key} has {pattern!r}, which is no parameter; they are in'
        f' {parts}.'
      )


def _name(path: Any) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator='/')
