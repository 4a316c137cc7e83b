"""Which split each row of a user's own data is in, and what the row lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines import targets
from data_pipelines.reading import stratified

SPLITS = ('train', 'validation', 'test')


def of_rows(
  target: targets.Targets,
  given: npt.NDArray[Any] | None,
  group: npt.NDArray[Any] | None,
  rows: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64] | None]:
  """Checks the given splits, or draws them, and numbers the groups.

  Splits are drawn with a fixed seed: 60, 20 and 20 % of each class, or of all
  rows in a regression.

  Args:
    target: The labels of the rows.
    given: [rows] of `SPLITS`, or None.
    group: [rows], what must not be in two splits, or None.
    rows: What each is called in errors, if not by its number from 0.

  Returns:
    [rows] of `SPLITS`, '' in a row without a label; and [rows], the number of
    the group, or None.

  Raises:
    ValueError: if a split is unknown, missing or divides a group, a group is
      NaN, or there are too few rows or groups (of a class).
  """
  code = None
  if group is not None:
    if group.dtype.kind == 'f' and np.isnan(group).any():
      raise ValueError(
        f"'group', row {np.argmax(np.isnan(group))}: NaN; expected the group of"
        ' each row, a number of its own if it is by itself.'
      )
    code = np.unique(group, return_inverse=True)[1].astype(np.int64)
  labelled = np.flatnonzero(target.is_there)
  split = np.full(len(target.label), '', '<U10')
  if given is None:
    groups = None if code is None else code[labelled]
    for name, drawn in _drawn(target, labelled, groups).items():
      split[labelled[drawn]] = name
    return split, code
  said = given.astype(str)
  split[labelled] = said[labelled]
  found = set(split[labelled].tolist())
  wrong = [
    f'{targets.called(row, rows)} has {str(said[row])!r}'
    for row in np.flatnonzero(~np.isin(said, SPLITS))[:1]
  ]
  if wrong or found != set(SPLITS):
    raise ValueError(
      f"'split' has {sorted(found)}; expected rows of each of {SPLITS}, with a"
      f' label, and of no other. {"".join(wrong)}'
    )
  if group is not None and (divided := _divided(code, split, labelled)).size:
    raise ValueError(
      f"'split' divides the group of {targets.called(divided[0], rows)},"
      f' {group[divided[0]].item()!r}; expected each in one split. Leave'
      " 'split' out to have it drawn."
    )
  return split, code


def lacking(
  has: Mapping[str, npt.NDArray[np.bool_]],
  target: targets.Targets,
  split: npt.NDArray[np.str_],
  rows: Sequence[str] | None = None,
) -> dict[str, npt.NDArray[np.bool_]]:
  """Of modalities -> [rows], which have it: those that a labelled row lacks.

  Raises:
    ValueError: if no row of train has a modality, or a labelled row has none.
  """
  labelled = target.is_there
  for name, here in has.items():
    if not here[split == 'train'].any():
      raise ValueError(f'{name!r} is missing in all rows of train.')
  without = labelled & ~np.any(list(has.values()), axis=0)
  if without.any():
    row = targets.called(int(np.argmax(without)), rows)
    raise ValueError(f'{row}: no modality is there. Leave the row out.')
  return {name: here for name, here in has.items() if not here[labelled].all()}


def _drawn(
  target: targets.Targets,
  rows: npt.NDArray[np.int64],
  groups: npt.NDArray[np.int64] | None,
) -> dict[str, npt.NDArray[np.int64]]:
  """Draws splits of the rows with a label: split -> places in `rows`."""
  if target.is_regression:
    unit = 'rows' if groups is None else 'groups'
    count = len(rows if groups is None else np.unique(groups))
    if count < len(SPLITS):
      raise ValueError(
        f'it has {count} {unit} with a target; expected some for each of'
        f' {SPLITS}.'
      )
    return stratified.split(np.zeros(len(rows), int), groups)
  try:
    return stratified.split(target.label[rows], groups, names=target.classes)
  except ValueError as error:
    if not target.are_numbers:
      raise
    raise ValueError(f'{error} {targets.IF_NUMBERS}') from error


def _divided(
  group: Any, split: npt.NDArray[np.str_], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
  """Returns those rows whose group, a number, is in two splits."""
  _, code = np.unique(split[rows], return_inverse=True)
  pairs = np.unique(np.stack([group[rows], code]), axis=1)
  return rows[np.bincount(pairs[0])[group[rows]] > 1]
