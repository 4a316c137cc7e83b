"""Rows without a label: told, and left out of losses and metrics alike."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NONE = -1
"""In place of a class: there is none."""


def of_classes(
  where: str,
  values: npt.NDArray[Any],
  present: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
  """Numbers the classes of rows that have one.

  A row has none where `present` says so, and where the value is NaN or an empty
  text. Whether -1 is a class (of sentiments, or two signs) or none cannot be
  told from the values, so it is asked for, as of the text 'nan', which NumPy
  makes of NaN among texts.

  Args:
    where: The file, for errors.
    values: [rows], whole numbers, which may be floats, or texts, as bytes, too.
    present: [rows], which have one; None: all whose value says nothing else.

  Returns:
    The classes, sorted; and [rows], the place of each in them, or `NONE`.

  Raises:
    ValueError: if they are no classes, no row has one, or -1 is to be told.

  Examples:
    >>> of_classes('', np.array([2, np.nan, 0]))
    (array([0, 2]), array([ 1, -1,  0]))
    >>> of_classes('', np.array(['b', '', 'a', 'b']))[1]
    array([ 1, -1,  0,  1])
  """
  if values.dtype.kind == 'S':
    values = np.char.decode(values, 'utf-8', 'backslashreplace')
  kind = values.dtype.kind
  has = np.ones(len(values), bool)
  if kind == 'f':
    has = ~np.isnan(values)
  elif kind == 'U':
    has = np.char.strip(values) != np.zeros((), values.dtype)
  says_none = present is not None or not has.all()
  has &= True if present is None else present
  named = values[has]
  if not named.size:
    raise ValueError(f"'label' of {where} has no label in any row.")
  whole = kind == 'f' and bool(
    np.all((np.abs(named) < 2**53) & (named == np.round(named)))
  )
  if kind not in 'biuU' and not whole:
    raise ValueError(
      f"'label' of {where} is {values.dtype}; expected classes, whole numbers"
      ' or texts. For targets that are numbers, write a builder.'
    )
  named = named.astype(np.int64) if whole else named
  classes, place = np.unique(named, return_inverse=True)
  if not says_none and kind in 'if':
    ask_of_minus_one(
      f"'label' of {where}",
      classes.tolist(),
      "Say so by an array 'label_present' [rows]: label >= 0 if it is none, all"
      ' True if it is a class',
    )
  if not says_none and kind == 'U' and 'nan' in classes:
    raise ValueError(
      f"'label' of {where} has the text 'nan': is it a class, or no label? Say"
      " so by an array 'label_present' [rows]: label != 'nan' if it is none,"
      ' all True if it is a class.'
    )
  label = np.full(len(values), NONE, np.int64)
  label[has] = place
  return classes, label


def ask_of_minus_one(where: str, classes: Sequence[Any], remedy: str) -> None:
  """Refuses -1 where it is the only negative class: it may stand for none."""
  negative = [each for each in classes if each < 0]
  if negative == [NONE]:
    others = ', '.join(f'{each:g}' for each in classes if each >= 0)
    raise ValueError(
      f'{where} has -1 beside {others}: is it a class, or no label? {remedy}.'
    )


def given(
  values: npt.NDArray[Any], *, has_classes: bool
) -> npt.NDArray[np.bool_]:
  """Which rows have a target: one that is not NaN all over, no class below 0.

  Args:
    values: [rows, ...], targets.
    has_classes: Whether they are classes; of other numbers -1 is one.

  Returns:
    [rows].

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
    first = int(np.argmin(has))
    name = f'row {first}' if rows is None else rows[first]
    _tell(f'{where}: {int(np.sum(~has))} of {len(has)} rows', name)


@functools.cache
def _tell(rows: str, first: str) -> None:
  logging.getLogger(__name__).warning(
    '%s have no label, the first is %s; losses and metrics leave them out.',
    rows,
    first,
  )
