"""Runs, or comparisons, side by side."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import runs
from experiments.report import measures
from experiments.report import results as results_lib
from experiments.report import tables


def table(directories: Sequence[pathlib.Path]) -> str:
  """Tables, in Markdown, of what directories have in common.

  Args:
    directories: all of `experiments.train`, whose last scores are told, or all
      of comparisons and sweeps, whose fused output is, by recipe or variant.

  Returns:
    A column a directory: the scores, the best of each row or column not marked,
    since they may be of different data; and what differs in configuration.

  Raises:
    FileNotFoundError: if one holds neither, or they are mixed.
  """
  names = _distinct(directories)
  if all(map(has_results, directories)):
    found = {k: results_lib.read(d) for k, d in names.items()}
    columns = {
      f'{k}: {one.measure.label}': one.column(f'{one.primary}/fused')
      for k, one in found.items()
    }
    scores = tables.of_cells('', measures.estimates(columns, mark_best=False))
    configs = {k: one.config for k, one in found.items()}
  elif all((one / 'metrics.jsonl').exists() for one in directories):
    lines = {k: runs.read_lines(d / 'metrics.jsonl') for k, d in names.items()}
    scores = tables.of_cells('', {k: _last(one) for k, one in lines.items()})
    configs = {k: one[0]['config'] for k, one in lines.items()}
  else:
    below = ''.join(
      f' {one} has results in folders inside it; if they are a study,'
      ' experiments.study writes its report.'
      for one in directories
      if any(one.glob('*/results.jsonl'))
    )
    raise FileNotFoundError(
      'Expected directories that are all runs of experiments.train, with'
      ' metrics.jsonl, or all comparisons or sweeps that have ended, with'
      f' results.jsonl; got {sorted(map(str, directories))}.' + below
    )
  if len(names) == 1:
    return scores
  return f'{scores}\n\nWhat differs:\n\n{_differences(configs)}'


def has_results(directory: pathlib.Path) -> bool:
  """Whether a comparison or a sweep has left its results in a directory."""
  return (directory / 'results.jsonl').exists()


def _distinct(
  directories: Sequence[pathlib.Path],
) -> dict[str, pathlib.Path]:
  """The directories by their paths from the folder that has all of them."""
  paths = [one.absolute() for one in directories]
  common = os.path.commonpath([one.parent for one in paths])
  return {one.relative_to(common).as_posix(): one for one in paths}


def _last(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """The last scores of a run, as text."""
  scored = [row for row in lines[1:] if row['split'] != 'train']
  if not scored:
    return {}
  last = scored[-1]
  return {'split': last['split'], 'step': f'{last["step"]}'} | {
    name: tables.score(value)
    for name, value in last.items()
    if name not in ('split', 'step')
  }


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> str:
  """The keys whose values differ, a column a directory."""
  texts: dict[str, dict[str, str]] = {}
  for name, config in configs.items():
    flat = configuration.flatten(config_dict.ConfigDict(config))
    for key, value in flat.items():
      row = texts.setdefault(key, dict.fromkeys(configs, 'null'))
      row[name] = json.dumps(value)
  unlike = {k: texts[k] for k in sorted(texts) if len({*texts[k].values()}) > 1}
  if not unlike:
    return 'nothing in the configuration.'
  return tables.of_rows('key', unlike)
