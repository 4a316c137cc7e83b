"""Splits by the hash of a group, for data sets without an official split."""

import hashlib
from collections.abc import Mapping


def share(group: str) -> float:
  """A number in [0, 1) that depends on the group's name alone.

  Args:
    group: what must not be in two splits: an actor, a video.

  Returns:
    The first 32 bits of the name's SHA-256, over 2³²: uniform over groups, the
    same on every machine and whatever else there is.

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

  Whether a group is in a part depends on its own name only: a missing file
  moves no other item.

  Args:
    groups: item -> its group.
    parts: part -> its share of the groups, in (0, 1); what is left is 'train'.
    salt: put before each group's name. Of few groups, the hash gives a part
      more or less than its share; another salt, another number.

  Returns:
    Part -> its items, in their order; 'train' is the first.

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
