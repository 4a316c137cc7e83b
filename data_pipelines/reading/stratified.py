"""Seeded splits by class, which divide no group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SHARES = {'train': 0.6, 'validation': 0.2, 'test': 0.2}
_SHOWN = 10  # classes that an error names


def split(
  labels: npt.NDArray[np.integer[Any]],
  groups: npt.NDArray[np.integer[Any]] | None = None,
  shares: Mapping[str, float] = SHARES,
  seed: int = 0,
  names: Sequence[Any] | None = None,
) -> dict[str, npt.NDArray[np.int64]]:
  """Divides rows so that no group is in two parts, and classes are balanced.

  Groups are shuffled, put in order of their size, the largest first, and each
  goes to the part that lacks most of its classes: the one for which the sum of
  squared differences, over classes, between the rows that the part has and its
  share of them, relative to the size of the class, grows least. Without groups
  every part has its share of each class, up to a row.

  Args:
    labels: [n], the class of each row.
    groups: [n], what must not be in two parts; None if each row is by itself.
    shares: Part -> its share of the rows; they sum to 1.
    seed: Of the shuffle. Equal arguments give equal parts, with any version of
      NumPy.
    names: What classes, which are places in it, are called in errors.

  Returns:
    Part -> its rows, shuffled: disjoint, and together all of them.

  Raises:
    ValueError: if shapes or shares are wrong, or a class is missing from a
      part, for which it has too few groups.

  Examples:
    >>> import numpy as np
    >>> labels = np.repeat([0, 1], [50, 30])
    >>> for name, rows in split(labels).items():
    ...   print(name, np.bincount(labels[rows]).tolist())
    train [30, 18]
    validation [10, 6]
    test [10, 6]
  """
  said = 'rows' if groups is None else 'groups'
  if groups is None:
    groups = np.arange(len(labels))
  if labels.ndim != 1 or groups.shape != labels.shape or not len(labels):
    raise ValueError(
      'Expected a label and a group of each of at least one row, got the shapes'
      f' {labels.shape} and {groups.shape}.'
    )
  if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
    raise ValueError(f'Expected shares above 0 that sum to 1, got {shares}.')
  classes, label = np.unique(labels, return_inverse=True)
  _, group = np.unique(groups, return_inverse=True)
  counts = np.zeros((group.max() + 1, len(classes)))
  np.add.at(counts, (group, label), 1)
  totals = counts.sum(0)
  # RandomState, because NumPy promises never to change its numbers.
  random = np.random.RandomState(seed)
  order = random.permutation(len(counts))
  order = order[np.argsort(-counts[order].sum(1), kind='stable')]
  # [parts, classes], the rows that each part has too many.
  surplus = -np.outer(list(shares.values()), totals)
  place = np.empty(len(counts), int)
  for each in order:
    # The square of surplus + count, less that of surplus.
    growth = counts[each] * (2 * surplus + counts[each]) / totals
    place[each] = np.argmin(np.round(growth.sum(1), 9))
    surplus[place[each]] += counts[each]
  parts = {
    name: random.permutation(np.flatnonzero(place[group] == number))
    for number, name in enumerate(shares)
  }
  for name, rows in parts.items():
    if missing := sorted(set(range(len(classes))) - set(label[rows].tolist())):
      called = classes.tolist()
      if names is not None:
        called = [names[each] for each in called]
      few = {
        called[each]: int(np.sum(counts[:, each] > 0))
        for each in missing[:_SHOWN]
      }
      more = len(missing) - len(few)
      raise ValueError(
        f'{name!r} would have no row of these classes, which have so many'
        f' {said}: {few}{f" and {more} classes more" if more else ""}.'
        f' Expected rows of every class in each part: more {said} of such'
        ' classes, these joined or left out, or a split of your own.'
      )
  return parts
