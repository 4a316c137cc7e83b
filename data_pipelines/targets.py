"""Targets of rows: classes or numbers; and rows that have none."""

import functools
import itertools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NONE = -1
"""In place of a class: there is none."""

WORD = 'regression'
"""After a path and a comma, it says that whole numbers are not classes."""

IF_NUMBERS = (
  'If the labels are numbers to predict, not classes, add the word'
  f' {WORD}: FILE,{WORD}.'
)


class Targets(NamedTuple):
  """The labels of all rows.

  Attributes:
    label: [rows]. For classes int64, the index in `classes`, or `NONE` in a
      row without a label. For a regression float64, NaN in such a row.
    classes: The names of the classes, sorted; empty for a regression.
  """

  label: npt.NDArray[Any]
  classes: tuple[Any, ...]

  @property
  def is_regression(self) -> bool:
    """Whether the labels are numbers to predict."""
    return not self.classes

  @property
  def is_there(self) -> npt.NDArray[np.bool_]:
    """[rows], whether each row has a label."""
    return given(self.label, has_classes=not self.is_regression)

  @property
  def are_numbers(self) -> bool:
    """Whether all classes are numbers, so a regression may be meant."""
    return all(is_number(str(name)) for name in self.classes)


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
  """Says once how many rows have no label, if there are any; see `called`."""
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


def parsed(path: str | os.PathLike[str]) -> tuple[pathlib.Path, bool]:
  """Returns a path, and whether `,regression` follows it.

  Examples:
    >>> parsed('/tmp/mine.npz,regression')
    (PosixPath('/tmp/mine.npz'), True)
  """
  text = os.fspath(path)
  plain = text.removesuffix(f',{WORD}')
  return pathlib.Path(plain).expanduser().resolve(), plain != text


def of_array(
  values: npt.NDArray[Any],
  present: npt.NDArray[np.bool_] | None = None,
  *,
  regression: bool = False,
) -> Targets:
  """Reads labels from an array.

  If any number is not whole, the labels are those of a regression. The values
  cannot tell whether -1 is a class (a sentiment, or a sign) or means "no
  label", so the caller is asked; likewise of the text 'nan', into which NumPy
  turns NaN among texts.

  Args:
    values: [rows], numbers or texts; texts may be bytes. NaN and an empty text
      are no label.
    present: [rows], whether each row has a label, or None.
    regression: Whether whole numbers are numbers to predict, not classes.

  Raises:
    ValueError: if the values are neither classes nor numbers, no row has a
      label, or the meaning of -1 or 'nan' is unclear.

  Examples:
    >>> of_array(np.array([2, np.nan, 0]))
    Targets(label=array([ 1, -1,  0]), classes=(0, 2))
    >>> of_array(np.array(['b', '', 'a', 'b'])).label
    array([ 1, -1,  0,  1])
    >>> of_array(np.array([2, np.nan, 0.5]))
    Targets(label=array([2. , nan, 0.5]), classes=())
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
    raise ValueError("'label' has no label in any row.")
  if kind not in 'biufU' or (regression and kind == 'U'):
    raise ValueError(
      f"'label' is {values.dtype}; expected"
      f' {"numbers" if regression else "numbers, or classes as texts"}.'
    )
  whole = kind == 'f' and bool(
    np.all((np.abs(named) < 2**53) & (named == np.round(named)))
  )
  if regression or (kind == 'f' and not whole):
    return _of_numbers(
      np.where(has, values.astype(np.float64), np.nan),
      lambda row: f"'label', row {row}",
    )
  named = named.astype(np.int64) if whole else named
  classes, place = np.unique(named, return_inverse=True)
  if not says_none and kind in 'if':
    _ask_of_minus_one(
      "'label'",
      classes.tolist(),
      "Say so by an array 'label_present' [rows]: label >= 0 if it is none, all"
      f' True if it is a class. {IF_NUMBERS}',
    )
  if not says_none and kind == 'U' and 'nan' in classes:
    raise ValueError(
      "'label' has the text 'nan': is it a class, or no label? Say so by an"
      " array 'label_present' [rows]: label != 'nan' if it is none, all True if"
      ' it is a class.'
    )
  label = np.full(len(values), NONE, np.int64)
  label[has] = place
  return Targets(label, tuple(classes.tolist()))


def of_cells(
  lines: Sequence[str],
  cells: Sequence[str],
  *,
  regression: bool = False,
) -> Targets:
  """Reads labels from the cells of a CSV, [rows]; an empty cell is no label.

  Args:
    lines: Where each row is, for errors.
    cells: [rows].
    regression: As in `of_array`.

  Raises:
    ValueError: as in `of_array`, or if two classes are the same number.

  Examples:
    >>> of_cells([], ['10', '9', '', '9'])
    Targets(label=array([ 1,  0, -1,  0]), classes=('9', '10'))
  """
  classes = sorted(set(cells) - {''}, key=_by_size)
  if not classes:
    raise ValueError("column 'label': it is empty in all rows.")
  are_numbers = all(map(is_number, classes))
  if regression or (are_numbers and not all(map(_is_whole, classes))):
    for line, cell in zip(lines, cells, strict=True):
      if cell and not is_number(cell):
        raise ValueError(
          f"{line}, column 'label': {cell!r}; expected a number."
        )
    return _of_numbers(
      np.array([float(cell or 'nan') for cell in cells]),
      lambda row: f"{lines[row]}, column 'label'",
    )
  if are_numbers and '' not in cells:
    _ask_of_minus_one(
      "column 'label'",
      list(map(float, classes)),
      'Leave the cell empty if it is none, or give the class a name.'
      f' {IF_NUMBERS}',
    )
  for one, other in itertools.pairwise(filter(is_number, classes)):
    if float(one) == float(other):
      raise ValueError(
        f"column 'label': {one!r} and {other!r} are one number. Spell it in one"
        f' way. {IF_NUMBERS}'
      )
  place = {name: i for i, name in enumerate(classes)} | {'': NONE}
  label = np.array([place[cell] for cell in cells], np.int64)
  return Targets(label, tuple(classes))


def is_number(text: str) -> bool:
  """Whether a text is a number; infinity and NaN are, too.

  Examples:
    >>> is_number('1e3'), is_number('2024_01')  # which Python would read
    (True, False)
  """
  try:
    float(text)
  except ValueError:
    return False
  return '_' not in text


def _of_numbers(
  values: npt.NDArray[np.float64], where: Callable[[int], str]
) -> Targets:
  if np.isinf(values).any():
    row = int(np.argmax(np.isinf(values)))
    raise ValueError(f'{where(row)}: {values[row]}; expected a finite number.')
  if np.isnan(values).all():
    raise ValueError(f'{where(0)}: no row has a number.')
  return Targets(values, ())


def _is_whole(number: str) -> bool:
  value = float(number)  # NaN and infinity are names
  return value.is_integer() or not math.isfinite(value)


def _by_size(name: str) -> tuple[float, str]:
  size = float(name) if is_number(name) else math.inf
  # NaN is a name: it is in no order with numbers.
  return (math.inf if math.isnan(size) else size, name)


def _ask_of_minus_one(where: str, classes: Sequence[Any], remedy: str) -> None:
  """Refuses -1 where it is the only negative class: it may stand for none."""
  negative = [each for each in classes if each < 0]
  if negative == [NONE]:
    others = ', '.join(f'{each:g}' for each in classes if each >= 0)
    raise ValueError(
      f'{where} has -1 beside {others}: is it a class, or no label? {remedy}'
    )
