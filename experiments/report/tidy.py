"""Results as one tidy table: a row for each value."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.core import runs
from experiments.report import tables

COLUMNS = ('run', 'recipe', 'seed', 'split', 'step', 'metric', 'value')
# Of a row of JSON lines, what says whose the values are.
_LABELS = ('variant', 'values', 'seed', 'split', 'step')


def write(
  directory: pathlib.Path, found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
  """Writes `results.csv`: `COLUMNS`, for a data frame of any language.

  Args:
    directory: where to.
    found: name of a run, a comparison or a sweep -> rows of its JSON lines,
      the header first.

  The recipe is that of a comparison, the values of a sweep's variant, or what a
  run's configuration has. What is told of each objective has names with a
  slash: `losses/fused`.
  """
  lines = [line for name, rows in found.items() for line in _lines(name, rows)]
  text = tables.comma_separated([COLUMNS, *lines])
  runs.write_text(directory / 'results.csv', text)


def _lines(
  run: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Any, ...]]:
  header = rows[0]
  for row in rows[1:]:
    recipe = row['variant'] if 'variant' in row else _recipe(header['config'])
    seed = row['seed'] if 'seed' in row else header['seed']
    labels = recipe, seed, row['split'], row.get('step', '')
    scored = {name: row[name] for name in row if name not in _LABELS}
    for metric, value in _numbers(scored):
      yield run, *labels, metric, value


def _recipe(config: Mapping[str, Any]) -> str:
  """As `config.compare` would have it: `mimo`, `mmcosine`, `mmcosine+mimo`."""
  method, weighting = config['method']['name'], config['weighting']['name']
  if method == 'weighted':
    return str(weighting)
  return str(method) if weighting == 'joint' else f'{method}+{weighting}'


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from ((f'{name}/{key}', n) for key, n in _numbers(value))
    elif isinstance(value, int | float):
      yield name, value
