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

  Groups are shuffled and sorted by size, the largest first. Each goes to the
  part that most lacks its classes: the one where it adds least to the sum, over
  classes, of (rows that the part has - its share of them)² / (size of the
  class). Without groups every part has its share of each class, up to a row.

  Args:
    labels: [n], the class of each row.
    groups: [n], the group of each row; None if each is a group of its own.
    shares: Part -> its share of the rows; they sum to 1.
    seed: Of the shuffle. Equal arguments give equal parts, with any version of
      NumPy.
    names: Names of the classes for errors, indexed by label.

  Returns:
    Part -> its rows, shuffled. The parts are disjoint and cover all rows.

  Raises:
    ValueError: if shapes or shares are wrong, or a class is missing from a
      part because it has too few groups.

  Examples:
    >>> import numpy as np
    >>> labels = np.repeat([0, 1], [50, 30])
    >>> for name, rows in split(labels).items():
    ...   print(name, np.bincount(labels[rows]).tolist())
    train [30, 18]
    validation [10, 6]
    test [10, 6]
  """
  unit = 'rows' if groups is None else 'groups'
  if groups is None:
    groups = np.arange(len(labels))
  if labels.ndim != 1 or groups.shape != labels.shape or not len(labels):
    raise ValueError(
      'Expected labels and groups of the same shape [n], n at least 1, got the'
      f' shapes {labels.shape} and {groups.shape}.'
    )
  if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
    raise ValueError(f'Expected shares above 0 that sum to 1, got {shares}.')
  classes, label = np.unique(labels, return_inverse=True)
  _, group = np.unique(groups, return_inverse=True)
  counts = np.zeros((group.max() + 1, len(classes)))
  np.add.at(counts, (group, label), 1)
  totals = counts.sum(0)
  # NumPy promises never to change what RandomState draws.
  random = np.random.RandomState(seed)
  order = random.permutation(len(counts))
  order = order[np.argsort(-counts[order].sum(1), kind='stable')]
  # [parts, classes]: rows above each part's share; below it, negative.
  surplus = -np.outer(list(shares.values()), totals)
  place = np.empty(len(counts), int)
  for each in order:
    # (surplus + count)² - surplus².
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
        f' {unit}: {few}{f" and {more} more classes" if more else ""}.'
        f' Every part needs rows of every class. Add {unit} to such classes,'
        ' join them, leave them out, or give a split of your own.'
      )
  return parts
