"""The results of a comparison or a sweep, as `results.jsonl` has them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.core import runs
from experiments.evaluation import metrics
from experiments.evaluation import statistics
from experiments.reporting import measures

FORMAT = 2
_NOT_SCORES = ('variant', 'values', 'seed', 'split', 'skipped_steps')

Scores = Mapping[str, measures.Values]  # score -> [seeds]


class Variant(NamedTuple):
  """The runs of one recipe, or of one combination of a sweep."""

  values: Mapping[str, Any]  # dotted key -> what the configuration has there
  scores: Mapping[str, Scores]  # split -> its scores
  skipped: Sequence[int]  # steps that were not finite, [seeds]


class Results(NamedTuple):
  """What was run, and what came of it."""

  header: Mapping[str, Any]
  variants: Mapping[str, Variant]  # label -> variant, in the order of the runs

  @property
  def config(self) -> Mapping[str, Any]:
    """The whole configuration."""
    return self.header['config']

  @property
  def modalities(self) -> Sequence[str]:
    """Their names, in order."""
    return self.header['modalities']

  @property
  def metrics(self) -> Sequence[str]:
    """Names of metrics; the first is the primary one."""
    return self.header['metrics']

  @property
  def measure(self) -> measures.Measure:
    """That of the primary metric."""
    return measures.Measure.of(self.metrics[0])

  @property
  def num_seeds(self) -> int:
    """The number of runs of each variant."""
    return len(next(iter(self.variants.values())).skipped)

  @property
  def scores(self) -> dict[str, Scores]:
    """Label -> scores of the test split."""
    return {label: one.scores['test'] for label, one in self.variants.items()}

  def score(self, name: str, split: str = 'test') -> dict[str, measures.Values]:
    """Label -> one score, [seeds]."""
    return {k: one.scores[split][name] for k, one in self.variants.items()}

  def relative_time(self, label: str) -> float:
    """Time of a step, by the reference's; that of rehearsals shared out.

    The median ratio, call by call.
    """
    seconds = np.array(self.header['seconds_per_step'][label])
    theirs = np.array(self.header['seconds_per_step'][self.header['reference']])
    rehearsal = sum(self.header['seconds_of_rehearsals'][label])
    rehearsal /= self.config['steps'] * np.median(theirs)
    return float(np.median(seconds / theirs) + rehearsal)

  def tuned(self) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Recipe -> what validation chose, and all that was tried.

    Of recipes with a choice alone.
    """
    upwards = metrics.higher_is_better(self.metrics[0])
    return {
      one['recipe']: (
        statistics.best_candidate(one['candidates'], upwards),
        one['candidates'],
      )
      for one in self.header['tuning']
      if len(one['candidates']) > 1
    }


def read(workdir: pathlib.Path) -> Results:
  """Reads `results.jsonl` of a comparison's or a sweep's directory.

  Raises:
    ValueError: if it does not begin with a header, is of another format, or its
      variants have other seeds than the first.
  """
  path = workdir / 'results.jsonl'
  header, *rows = runs.read_lines(path)
  if header.get('format') != FORMAT:
    raise ValueError(
      f'{path} is of format {header.get("format", 1)}, as an earlier version'
      f' wrote it; this one reads format {FORMAT}. Run the command again in a'
      ' new directory (--workdir).'
    )
  grouped: dict[str, dict[str, list[dict[str, Any]]]] = {}
  for row in rows:
    of_variant = grouped.setdefault(row['variant'], {})
    of_variant.setdefault(row['split'], []).append(row)
  seeds = {
    tuple(row['seed'] for row in of_split)
    for of_variant in grouped.values()
    for of_split in of_variant.values()
  }
  if len(seeds) != 1:
    raise ValueError(
      f'{path}: expected the same seeds of every variant, got'
      f' {json.dumps(sorted(seeds))}.'
    )
  return Results(
    header, {k: _variant(of_variant) for k, of_variant in grouped.items()}
  )


def _variant(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Variant:
  """One variant of its rows in each split."""
  some = next(iter(rows.values()))
  return Variant(
    values=some[0]['values'],
    scores={
      split: {
        name: np.array([row[name] for row in of_split])
        for name in of_split[0]
        if name not in _NOT_SCORES
      }
      for split, of_split in rows.items()
    },
    skipped=[row['skipped_steps'] for row in some],
  )
