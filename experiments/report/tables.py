"""Tables in Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r'[-+]?[\d,.]+(e[-+]?\d+)?|-|')
_LATEX = {
  **{sign: f'\\{sign}' for sign in '%_&#${}'},
  **{sign: f'${sign}$' for sign in '<>|'},
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
  '`': '',
}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table that reads well as text, too.

  Columns of numbers alone stand on the right.

  Raises:
    ValueError: if a row has another number of cells than the header.

  Examples:
    >>> print(markdown(['rule', 'ms'], [['mgda', '7.5'], ['mean', '12.0']]))
    | rule |   ms |
    | ---- | ---: |
    | mgda |  7.5 |
    | mean | 12.0 |
  """
  columns = []
  for column in zip(header, *rows, strict=True):
    name, *cells = (cell.replace('|', r'\|') for cell in column)
    width = max(3, *map(len, (name, *cells)))
    is_number = bool(cells) and all(map(_NUMBER.fullmatch, cells))
    align = str.rjust if is_number else str.ljust
    rule = ('-' * (width - 1)) + (':' if is_number else '-')
    name, *cells = (align(cell, width) for cell in (name, *cells))
    columns.append([name, rule, *cells])
  lines = zip(*columns, strict=True)
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def of_cells(corner: str, cells: Mapping[str, Mapping[str, str]]) -> str:
  """The table of column -> row -> text, with the rows' names below `corner`.

  A row that a column lacks is left empty there.
  """
  rows = dict.fromkeys(row for column in cells.values() for row in column)
  return markdown(
    [corner, *cells],
    [[row, *(c.get(row, '') for c in cells.values())] for row in rows],
  )


def of_rows(corner: str, rows: Mapping[str, Mapping[str, str]]) -> str:
  """The same of row -> column -> text."""
  columns = dict.fromkeys(column for row in rows.values() for column in row)
  return markdown(
    [corner, *columns],
    [[k, *(row.get(c, '') for c in columns)] for k, row in rows.items()],
  )


def latex(text: str) -> str:
  r"""A text whose Markdown tables are LaTeX's (`booktabs`), the rest comments.

  Examples:
    >>> table = markdown(['of', '%'], [['a_b', '**-9 ± 1**']])
    >>> print(latex(f'Scores:\n\n{table}'))
    % Scores:
    <BLANKLINE>
    \begin{tabular}{ll}
    \toprule
    of & \% \\
    \midrule
    a\_b & \textbf{$-$9 $\pm$ 1} \\
    \bottomrule
    \end{tabular}
  """
  return '\n\n'.join(
    _latex_table(part) if part.startswith('| ') else re.sub('(?m)^', '% ', part)
    for part in text.split('\n\n')
  )


def _latex_table(table: str) -> str:
  lines = [re.split(r'(?<!\\)\|', line[1:-1]) for line in table.splitlines()]
  aligned = (
    'r' if cell.strip().endswith(':') else 'l' for cell in lines.pop(1)
  )
  rows = (' & '.join(map(_latex_cell, line)) for line in lines)
  # What stands before a row would take its [ or * for an argument.
  header, *below = (re.sub(r'^[*\[]', r'{\g<0>}', row) for row in rows)
  return '\n'.join(
    [
      rf'\begin{{tabular}}{{{"".join(aligned)}}}',
      *(r'\toprule', rf'{header} \\', r'\midrule'),
      *(rf'{row} \\' for row in below),
      *(r'\bottomrule', r'\end{tabular}'),
    ]
  )


def _latex_cell(cell: str) -> str:
  text = cell.strip().replace(r'\|', '|')
  text = ''.join(_LATEX.get(sign, sign) for sign in text)
  text = re.sub(r'(?<![\w-])-(?=\d)', '$-$', text)
  return re.sub(r'\*\*(.+?)\*\*', r'\\textbf{\1}', text)


def comma_separated(rows: Iterable[Sequence[Any]]) -> str:
  """A table as CSV; None is an empty cell."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  return text.getvalue()


def capital(text: str) -> str:
  """A text with a capital letter."""
  return text[:1].upper() + text[1:]


def value(setting: Any) -> str:
  """A value of the configuration."""
  return f'{setting:.4g}' if isinstance(setting, float) else str(setting)


def score(number: float) -> str:
  """A number with four digits behind the point, unless it would be 0.

  Examples:
    >>> score(0.25), score(1.5e-7)
    ('0.2500', '1.5e-07')
  """
  return f'{number:{".3g" if 0 < abs(number) < 1e-3 else ".4f"}}'


def count(number: int, noun: str) -> str:
  """A number of things, for people."""
  return f'{number} {noun}{"" if number == 1 else "s"}'


def short(values: Mapping[str, Any], sign: str) -> str:
  """Values of a configuration by the last parts of their keys."""
  return ', '.join(
    f'{key.rpartition(".")[2]}{sign}{value}' for key, value in values.items()
  )
