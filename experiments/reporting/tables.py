"""Markdown tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Cells = Mapping[str, Mapping[str, str]]  # column -> row -> text
_NUMBER = re.compile(r'[-+]?[\d,.]+(e[-+]?\d+)?|-|')


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table that reads well as text, too.

  Args:
    header: the names of the columns.
    rows: as many cells each. Columns of numbers alone stand on the right.

  Returns:
    Its lines.

  Raises:
    ValueError: if a row has another number of cells.

  Examples:
    >>> print(markdown(['rule', 'ms'], [['mgda', '7.5'], ['mean', '12.0']]))
    | rule |   ms |
    | ---- | ---: |
    | mgda |  7.5 |
    | mean | 12.0 |
  """
  rows = [list(row) for row in rows]
  columns = [list(column) for column in zip(header, *rows, strict=True)]
  aligned = []
  for name, *cells in columns:
    width = max(3, *map(len, (name, *cells)))
    if cells and all(map(_NUMBER.fullmatch, cells)):
      rule, align = '-' * (width - 1) + ':', str.rjust
    else:
      rule, align = '-' * width, str.ljust
    aligned.append(
      [align(name, width), rule, *(align(c, width) for c in cells)]
    )
  return '\n'.join(
    f'| {" | ".join(line)} |' for line in zip(*aligned, strict=True)
  )


def of_cells(corner: str, cells: Cells) -> str:
  """The table of column -> row -> text, whose rows are the first column's.

  Args:
    corner: the name of the column with the rows' names.
    cells: a row that a column lacks is left empty there.

  Returns:
    Its lines.

  Examples:
    >>> print(of_cells('rule', {'ms': {'mgda': '7.5'}}))
    | rule |  ms |
    | ---- | --: |
    | mgda | 7.5 |
  """
  rows = dict.fromkeys(row for column in cells.values() for row in column)
  return markdown(
    [corner, *cells],
    [[row, *(c.get(row, '') for c in cells.values())] for row in rows],
  )


def capital(text: str) -> str:
  """A text with a capital letter."""
  return text[:1].upper() + text[1:]


def value(setting: Any) -> str:
  """A value of the configuration."""
  return f'{setting:.4g}' if isinstance(setting, float) else str(setting)
