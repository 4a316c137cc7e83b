"""Leaves out what a data set's lists name twice, in one split or in two."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from data_pipelines.reading import _audit

Item = TypeVar('Item')


def without_repeats(
  parts: Mapping[str, Sequence[tuple[str, Item]]],
  group: Callable[[str], str],
) -> dict[str, dict[str, Item | _audit.SkipError]]:
  """Keeps the first entry of each key, and each group in one part.

  Nothing is dropped: what is left out becomes an error that says why, under a
  key of its own, for `_audit.examples` to count.

  Args:
    parts: part -> its entries (key, item). A group that is in two parts stays
      in the later of them, so test comes last.
    group: key -> what must not be in two parts.

  Returns:
    Part -> key -> the item or, for one to leave out, a `SkipError` with the
    reason 'duplicate' or 'in_other_split'.

  Examples:
    >>> parts = {'train': [('a', 1), ('a', 2), ('b', 3)], 'test': [('b', 4)]}
    >>> for part, items in without_repeats(parts, group=str).items():
    ...   print(part, {k: getattr(v, 'reason', v) for k, v in items.items()})
    train {'a': 1, 'a (again, 2)': 'duplicate', 'b': 'in_other_split'}
    test {'b': 4}
  """
  result: dict[str, dict[str, Item | _audit.SkipError]] = {}
  elsewhere: dict[str, str] = {}  # group -> the part in which it stays
  for part in reversed(list(parts)):
    items: dict[str, Item | _audit.SkipError] = {}
    for place, (key, item) in enumerate(parts[part], 1):
      unique = f'{key} (again, {place})' if key in items else key
      other = elsewhere.get(group(key))
      if other is not None:
        items[unique] = _audit.SkipError(
          'in_other_split', f'{key} is left to {other}, where {group(key)} is'
        )
      elif unique != key:
        items[unique] = _audit.SkipError(
          'duplicate', f'{key} is listed before; entry {place} of {part}'
        )
      else:
        items[key] = item
    elsewhere.update((group(key), part) for key, _ in parts[part])
    result[part] = items
  return {part: result[part] for part in parts}
