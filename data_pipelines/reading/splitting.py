"""Assigns items to splits by the hash of a group."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from data_pipelines.reading import audit

Item = TypeVar('Item')


def share(group: str) -> float:
  """Returns a number in [0, 1) that depends on the group's name alone.

  It is the first 32 bits of the name's SHA-256, divided by 2³²: uniform over
  groups, and the same on every machine.

  Examples:
    >>> share('1001')
    0.994
  """
  digest = hashlib.sha256(group.encode()).digest()
  return int.from_bytes(digest[:4], 'big') / 2**32


def split(
  groups: Mapping[str, str], parts: Mapping[str, float], salt: str = ''
) -> dict[str, list[str]]:
  """Divides items so that no group is in two parts.

  The part of a group depends on its own name only, so a missing file moves no
  other item.

  Args:
    groups: Item -> its group.
    parts: Part -> its share of the groups, in (0, 1). The rest is 'train',
      which comes first.
    salt: Prepended to each group's name. If groups are few, a part may get more
      or less than its share; another salt gives another division.

  Examples:
    >>> groups = {f'{n // 2}_{n}': f'{n // 2}' for n in range(60)}
    >>> parts = split(groups, {'validation': 0.1, 'test': 0.1})
    >>> {name: len(items) for name, items in parts.items()}
    {'train': 56, 'validation': 2, 'test': 2}
  """
  divided: dict[str, list[str]] = {'train': [], **{name: [] for name in parts}}
  for item, group in groups.items():
    place = share(salt + group)
    chosen = 'train'
    for name, width in parts.items():
      if 0 <= place < width:
        chosen = name
        break
      place -= width
    divided[chosen].append(item)
  return divided


def without_repeats(
  parts: Mapping[str, Sequence[tuple[str, Item]]],
  group: Callable[[str], str],
) -> dict[str, dict[str, Item | audit.SkipError]]:
  """Keeps the first entry of each key, and each group in one part only.

  Args:
    parts: Part -> its entries (key, item). A group that is in two parts stays
      in the later one, so test comes last.
    group: Key -> the group, which must not be in two parts.

  Returns:
    Part -> key -> the item. For `audit.examples` to count, each entry to leave
    out is a `SkipError`, 'duplicate' or 'in_other_split', under its own key.

  Examples:
    >>> parts = {'train': [('a', 1), ('a', 2), ('b', 3)], 'test': [('b', 4)]}
    >>> for part, items in without_repeats(parts, group=str).items():
    ...   print(part, {k: getattr(v, 'reason', v) for k, v in items.items()})
    train {'a': 1, 'a (again, 2)': 'duplicate', 'b': 'in_other_split'}
    test {'b': 4}
  """
  result: dict[str, dict[str, Item | audit.SkipError]] = {}
  elsewhere: dict[str, str] = {}  # group -> the part in which it stays
  for part in reversed(list(parts)):
    items: dict[str, Item | audit.SkipError] = {}
    for place, (key, item) in enumerate(parts[part], 1):
      unique = f'{key} (again, {place})' if key in items else key
      other = elsewhere.get(group(key))
      if other is not None:
        items[unique] = audit.SkipError(
          'in_other_split', f'{group(key)} is in {other}, so {key} is left out'
        )
      elif unique != key:
        items[unique] = audit.SkipError(
          'duplicate', f'{key} is listed again, as entry {place} of {part}'
        )
      else:
        items[key] = item
    elsewhere.update((group(key), part) for key, _ in parts[part])
    result[part] = items
  return {part: result[part] for part in parts}
