"""Rows without a label: told, and left out of losses and metrics alike."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NONE = -1
"""In place of a class: there is none."""


def ask_of_minus_one(where: str, classes: Sequence[Any], remedy: str) -> None:
  """Refuses -1 where it is the only negative class: it may stand for none."""
  negative = [each for each in classes if each < 0]
  if negative == [NONE]:
    others = ', '.join(f'{each:g}' for each in classes if each >= 0)
    raise ValueError(
      f'{where} has -1 beside {others}: is it a class, or no label? {remedy}'
    )


def given(
  values: npt.NDArray[Any], *, has_classes: bool
) -> npt.NDArray[np.bool_]:
  """Which rows have a target: one that is not NaN all over, no class below 0.

  Args:
    values: [rows, ...], targets.
    has_classes: Whether they are classes; of other numbers -1 is one.

  Examples:
    >>> given(np.array([1, -1, 0]), has_classes=True).tolist()
    [True, False, True]
    >>> given(np.array([1, -1, np.nan]), has_classes=False).tolist()
    [True, True, False]
  """
  lacks = np.zeros(values.shape, bool)
  if np.issubdtype(values.dtype, np.floating):
    lacks = np.isnan(values)
  if has_classes:
    lacks |= values < 0
  return np.logical_not(np.all(lacks.reshape(len(values), -1), axis=1))


def called(row: int, rows: Sequence[str] | None) -> str:
  """What a row is called in messages: its number from 0 if `rows` is None."""
  return f'row {row}' if rows is None else rows[row]


def tell(
  where: str, has: npt.NDArray[np.bool_], rows: Sequence[str] | None = None
) -> None:
  """Says once how many rows have no label, if there are any.

  Args:
    where: Whose rows they are.
    has: [rows], which have one.
    rows: What each is called, if not by its number from 0.
  """
  if not has.all():
    first = called(int(np.argmin(has)), rows)
    _tell(f'{where}: {int(np.sum(~has))} of {len(has)} rows', first)


@functools.cache
def _tell(rows: str, first: str) -> None:
  logging.getLogger(__name__).warning(
    '%s have no label, the first is %s; losses and metrics leave them out.',
    rows,
    first,
  )
