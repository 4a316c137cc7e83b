"""Which parameters a rule looks at, and which take which weights."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

from mimo_jax import base
from mimo_jax.per_encoder import _paths


class Choice(NamedTuple):
  """The functions of a path that `balance` was given; None treats all alike."""

  groups: Callable[[_paths.Path], Any] | None = None
  weigh_on: Callable[[_paths.Path], Any] | None = None
  shared: Callable[[_paths.Path], Any] | None = None


# Indices of some leaves of params, ascending; None for all leaves.
Places: TypeAlias = tuple[int, ...] | None


class Part(NamedTuple):
  """Parameters that take the same weights."""

  combined: Places = None  # take the weights
  weighing: Places = None  # those of them that the rule looks at

  @property
  def beyond(self) -> tuple[int, ...]:
    """Leaves that take the weights, but that the rule does not look at."""
    return tuple(sorted({*(self.combined or ())} - {*(self.weighing or ())}))


class Parts(NamedTuple):
  """All parameters, in parts."""

  parts: tuple[Part, ...] = (Part(),)  # the rule is asked once for each
  own: tuple[int, ...] = ()  # leaves that take no weights: not shared
  names: tuple[str, ...] | None = None  # of groups, sorted, if there are any

  @property
  def grouped(self) -> bool:
    """Whether the rule is asked once for each group."""
    return self.names is not None and len(self.parts) == len(self.names)

  @property
  def weighing(self) -> Places:
    """All leaves that the rule looks at."""
    if self.parts[0].weighing is None:
      return None
    return tuple(sorted(i for part in self.parts for i in part.weighing or ()))

  @property
  def beyond(self) -> tuple[int, ...]:
    """All leaves that take weights, but that the rule does not look at."""
    return tuple(sorted(i for part in self.parts for i in part.beyond))

  @property
  def without_beyond(self) -> 'Parts':
    """The same parts without the leaves that the rule does not look at."""
    parts = (part._replace(combined=part.weighing) for part in self.parts)
    return self._replace(parts=tuple(parts))

  @property
  def places(self) -> Places:
    """All leaves."""
    if self.parts[0].combined is None:
      return None
    combined = (i for part in self.parts for i in part.combined or ())
    return tuple(sorted((*combined, *self.own)))


def check(choice: Choice) -> None:
  """Raises if one of them is not a function of a path."""
  returns = {
    'groups': 'the name of its group',
    'weigh_on': 'whether the rule looks at it',
    'shared': 'whether several objectives reach it',
  }
  for argument, value in choice._asdict().items():
    if value is not None:
      _paths.check_function(
        'balance', argument, value, returns[argument], 'lambda path: path[0]'
      )


def parts_of(choice: Choice, params: base.PyTree, of_gradients: bool) -> Parts:
  """Puts the leaves of params, real numbers, into parts.

  The weights of a rule that does not look at gradients are the same for all
  groups.
  """
  if choice == Choice():
    return Parts()
  if params is None:
    raise ValueError(
      'balance was given groups, weigh_on or shared, which look at the paths of'
      ' params: call `update(updates, state, params, losses=losses)` with the'
      ' params.'
    )
  paths = [path for path, _ in _paths.leaves_by_path(params)]
  own = tuple(
    i
    for i, path in enumerate(paths)
    if choice.shared and not choice.shared(path)
  )
  members: dict[str, list[int]] = {}
  keys: dict[str, Any] = {}
  for i, path in enumerate(paths):
    if i not in own:
      key = choice.groups(path) if choice.groups else ''
      name = _name_of(key)
      members.setdefault(name, []).append(i)
      if keys.setdefault(name, key) != key:
        raise ValueError(
          f'balance: groups returned {keys[name]!r} and {key!r}, which would'
          f' both be named {name!r}; expected keys that differ as text.'
        )
  more = f' and {len(paths) - 20} more' if len(paths) > 20 else ''
  listed = f'The parameters are {["/".join(p) for p in paths[:20]]}{more}.'
  if not members:
    raise ValueError(
      'balance: shared is true of no parameter, so that no parameter takes the'
      f' weights. {listed}'
    )
  names = tuple(sorted(members)) if choice.groups else None
  if not of_gradients:
    combined = tuple(i for i in range(len(paths)) if i not in own)
    return Parts((Part(combined),), own, names)
  weighing = {
    name: tuple(
      i for i in places if not choice.weigh_on or choice.weigh_on(paths[i])
    )
    for name, places in members.items()
  }
  without = [name for name, places in weighing.items() if not places]
  if without:
    of = f' of the groups {without}' if choice.groups else ''
    raise ValueError(
      f'balance: weigh_on is true of no parameter{of}, so that the rule has'
      f' nothing to look at. {listed}'
    )
  parts = (
    Part(tuple(members[name]), weighing[name]) for name in sorted(members)
  )
  return Parts(tuple(parts), own, names)


def _name_of(key: Any) -> str:
  return '/'.join(map(str, key)) if isinstance(key, tuple) else str(key)


def leaves_at(tree: base.PyTree, places: Places) -> base.PyTree:
  """Returns a mapping place -> leaf of a pytree; the pytree itself for None."""
  if places is None:
    return tree
  leaves = jax.tree.leaves(tree)
  return {place: leaves[place] for place in places}


def part_of(leaves: base.PyTree, places: Places) -> base.PyTree:
  """Selects some of the leaves that `leaves_at` returned, in order."""
  if places is None:
    return leaves
  return {place: leaves[place] for place in places}


def numbered(leaves: base.PyTree, places: Places) -> base.PyTree:
  """Numbers a part's leaves from 0, so that parts of one shape look alike."""
  if places is None:
    return leaves
  return dict(enumerate(leaves[place] for place in places))
