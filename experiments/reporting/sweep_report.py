"""The table and the heat map of a sweep, from its results."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.core import runs
from experiments.core import search_space
from experiments.evaluation import statistics
from experiments.reporting import figures

_HEAT_MAP = (
  '![Scores of the grid](heatmap.png)\n\nFramed: the best on validation.\n\n'
)


class Combination(NamedTuple):
  """The results of one combination of values."""

  values: Mapping[str, Any]  # key -> value
  validation: Mapping[str, npt.NDArray[np.float64]]  # output -> [seeds]
  test: Mapping[str, npt.NDArray[np.float64]]
  skipped: Sequence[int]  # non-finite steps, [seeds]


class Results(NamedTuple):
  """The results of a sweep."""

  header: Mapping[str, Any]
  combinations: Sequence[Combination]
  best: int  # the one whose fused output is the best on validation


def read(workdir: pathlib.Path) -> Results:
  """Reads `results.jsonl` of a sweep's directory.

  Raises:
    ValueError: if it does not begin with a header.
  """
  header, *rows = runs.read_lines(workdir / 'results.jsonl')
  grouped: dict[str, list[dict[str, Any]]] = {}
  for row in rows:
    grouped.setdefault(json.dumps(row['values']), []).append(row)

  def scores(rows: Sequence[Any], split: str) -> dict[str, Any]:
    return {
      name: np.array([row[split][name] for row in rows])
      for name in ('fused', *header['modalities'])
    }

  combinations = [
    Combination(
      values=own[0]['values'],
      validation=scores(own, 'validation'),
      test=scores(own, 'test'),
      skipped=[row['skipped_steps'] for row in own],
    )
    for own in grouped.values()
  ]
  candidates = [
    {'place': i, 'validation': one.validation['fused']}
    for i, one in enumerate(combinations)
  ]
  best = runs.best_candidate(candidates)['place']
  return Results(header, combinations, best)


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes `sweep.md`, and `heatmap.png` of a grid of two floats.

  Returns:
    The path of the table.
  """
  results = read(workdir)
  has_map = _write_heat_map(results, workdir / 'heatmap.png')
  header = results.header
  config = header['config']
  versions = ', '.join(f'{k} {v}' for k, v in header['versions'].items())
  path = workdir / 'sweep.md'
  runs.write_text(
    path,
    f'# {config["data"]["name"].capitalize()}, {config["data"]["config"]}:'
    f' {_count(len(results.combinations), "combination")}\n\n'
    f'{table(results)}\n\n'
    + (_HEAT_MAP if has_map else '')
    + f'{_count(len(header["programs"]), "program")}. Made by commit'
    f' {header["commit"]} on {header["device"]} ({header["num_devices"]}), with'
    f' {versions}.\n',
  )
  return path


def table(results: Results) -> str:
  """The table in Markdown, a row a combination, and what must be said of it."""
  words = _words(results.header['metric'])
  modalities = results.header['modalities']
  keys = list(results.combinations[0].values)
  lines = [[*keys, 'validation', 'test', *modalities, 'uni-modal mean']]
  for i, one in enumerate(results.combinations):
    columns = [one.validation['fused'], one.test['fused']]
    columns += [one.test[name] for name in modalities]
    columns.append(_uni_modal_mean(one, modalities))
    cells = [
      *(search_space.text(value) for value in one.values.values()),
      *map(_cell, columns),
    ]
    if i == results.best:
      cells = [f'**{cell}**' for cell in cells]
    lines.append(cells)
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, ['-' * width for width in widths])
  number = len(results.combinations[0].skipped)
  diverged = [
    f'`{search_space.label(one.values)}` skipped'
    f' {_count(max(one.skipped), "step")} of a seed, because losses or'
    ' gradients were not finite.'
    for one in results.combinations
    if max(one.skipped) > 0
  ]
  return '\n\n'.join(
    [
      f'{words[0].upper()}{words[1:]} in %, mean ± standard error over'
      f' {_count(number, "seed")}: of the fused output on validation and test,'
      " and of each modality's own output on test. **Bold** is the best on"
      ' validation, which chooses; the best of many on test would flatter.',
      '\n'.join(
        '| ' + ' | '.join(map(str.ljust, line, widths)) + ' |' for line in lines
      ),
      *diverged,
    ]
  )


def _write_heat_map(results: Results, path: pathlib.Path) -> bool:
  """Draws a grid of two floats; says whether the sweep is one."""
  combinations = results.combinations
  keys = list(combinations[0].values)
  if len(keys) != 2 or not all(
    isinstance(value, float)
    for one in combinations
    for value in one.values.values()
  ):
    return False
  rows, columns = (
    sorted({one.values[key] for one in combinations}) for key in keys
  )
  if len(rows) * len(columns) != len(combinations):
    return False

  def cells(of: Any) -> npt.NDArray[np.float64]:
    filled = np.zeros((len(rows), len(columns)))
    for one in combinations:
      place = (
        rows.index(one.values[keys[0]]),
        columns.index(one.values[keys[1]]),
      )
      filled[place] = 100 * np.mean(of(one))
    return filled

  best = combinations[results.best].values
  words = _words(results.header['metric'])
  modalities = results.header['modalities']
  figures.heat_map(
    {
      f'Test {words} of the fused output, %': cells(
        lambda one: one.test['fused']
      ),
      f'Test {words}, uni-modal mean, %': cells(
        lambda one: _uni_modal_mean(one, modalities)
      ),
    },
    rows=(keys[0], [search_space.text(value) for value in rows]),
    columns=(keys[1], [search_space.text(value) for value in columns]),
    marked=(rows.index(best[keys[0]]), columns.index(best[keys[1]])),
    path=path,
  )
  return True


def _words(metric: str) -> str:
  return metric.replace('_', ' ').replace('f1', 'F1')


def _uni_modal_mean(
  one: Combination, modalities: Sequence[str]
) -> npt.NDArray[np.float64]:
  return np.mean([one.test[name] for name in modalities], 0)


def _cell(values: npt.NDArray[np.float64]) -> str:
  mean, error = statistics.estimate(100 * values)
  return f'{mean:.2f}' if np.isnan(error) else f'{mean:.2f} ± {error:.2f}'


def _count(number: int, noun: str) -> str:
  return f'{number} {noun}{"" if number == 1 else "s"}'
