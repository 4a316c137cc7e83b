"""Results as one tidy table: a line a value."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.core import runs

COLUMNS = ('run', 'recipe', 'seed', 'split', 'step', 'metric', 'value')
# Of a row of `results.jsonl`, what says whose the values are.
_LABELS = ('variant', 'values', 'seed', 'split', 'step')


def write(workdir: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes `results.csv`: `COLUMNS`, for a data frame of any language.

  Args:
    workdir: of a comparison or a sweep, whose name is the run's.
    rows: those of its `results.jsonl`, the header first.

  The recipe is that of a comparison, or the values of a sweep's variant.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(COLUMNS)
  writer.writerows(_lines(workdir.name, rows))
  runs.write_text(workdir / 'results.csv', text.getvalue())


def _lines(
  run: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Any, ...]]:
  for row in rows[1:]:
    labels = row['variant'], row['seed'], row['split'], row.get('step', '')
    for metric, value in row.items():
      if metric not in _LABELS and isinstance(value, int | float):
        yield run, *labels, metric, value
