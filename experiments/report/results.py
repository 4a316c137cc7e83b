"""The results of a comparison or a sweep, as `results.jsonl` has them."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.core import runs
from experiments.evaluate import choosing
from experiments.report import measures

_NOT_SCORES = ('variant', 'values', 'seed', 'split', 'skipped_steps', 'step')
# The split of results on test where training stopped early.
STOPPED = 'test, stopped early'

Kind = Literal['last', 'stopped']  # at the end of training, or stopped early
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
  def primary(self) -> str:
    """The name of the metric by which variants are compared."""
    return self.header['metrics'][0]

  @property
  def measure(self) -> measures.Measure:
    """That of the primary metric."""
    return measures.Measure.of(self.primary)

  @property
  def scores(self) -> dict[str, Scores]:
    """Label -> scores of the test split."""
    return {label: one.scores['test'] for label, one in self.variants.items()}

  def score(self, name: str, split: str = 'test') -> dict[str, measures.Values]:
    """Label -> one score, [seeds]."""
    return {k: one.scores[split][name] for k, one in self.variants.items()}

  def column(self, name: str, split: str = 'test') -> measures.Column:
    """A score that is in the primary metric, of each variant."""
    return measures.Column(self.measure, self.score(name, split))

  def over_modalities(
    self, kind: str, reduce: Callable[..., Any]
  ) -> measures.Column:
    """A score of each modality, reduced to one."""
    of_modality = [self.score(f'{kind}/{m}') for m in self.modalities]
    return measures.Column(
      self.measure,
      {k: reduce([one[k] for one in of_modality], 0) for k in self.variants},
    )

  def relative_time(self, label: str) -> float:
    """Time of a step, by the reference's; that of rehearsals shared out.

    The median ratio, call by call.
    """
    seconds = self.header['seconds_per_step']
    theirs = np.array(seconds[self.header['reference']])
    rehearsal = sum(self.header['seconds_of_rehearsals'][label])
    rehearsal /= self.config['steps'] * np.median(theirs)
    return float(np.median(np.array(seconds[label]) / theirs) + rehearsal)

  def relative_memory(self, label: str) -> float:
    """Memory that a step of all seeds needs, by the reference's."""
    megabytes = self.header['megabytes']
    return float(megabytes[label] / megabytes[self.header['reference']])

  def relative_total(self, label: str) -> float:
    """Time of all tuning and training, by the reference's training alone."""
    seconds = self.header['seconds']
    total = sum(
      one for name, one in seconds.items() if name.split(',')[0] == label
    )
    total += sum(t['seconds'] for t in self.tuning if t['recipe'] == label)
    return float(total / seconds[self.header['reference']])

  @property
  def tuning(self) -> Sequence[Mapping[str, Any]]:
    """What was tried of each recipe, and chosen; empty if nothing was tuned."""
    return self.header['tuning']

  def choices(self, kind: Kind) -> dict[str, choosing.Choice]:
    """Recipe -> what validation chose, without or with early stopping."""
    return {
      one['recipe']: choosing.Choice(**one['chosen'][kind])
      for one in self.tuning
    }

  def chosen(self, kind: Kind) -> measures.Column:
    """Scores on test of the read-outs that validation chose."""
    split = {'last': 'test', 'stopped': STOPPED}[kind]
    values = {
      recipe: self.variants[recipe].scores[split][
        f'{self.primary}/{one.readout}'
      ]
      for recipe, one in self.choices(kind).items()
    }
    return measures.Column(self.measure, values)


def read(workdir: pathlib.Path) -> Results:
  """Reads `results.jsonl` of a comparison's or a sweep's directory.

  Raises:
    ValueError: if it does not begin with a header, is of another format, or its
      variants have other seeds than the first.
  """
  path = workdir / 'results.jsonl'
  header, *rows = runs.read_lines(path)
  if header.get('format') != runs.FORMAT:
    raise ValueError(
      f'{path} has format {header.get("format", 1)}, from an earlier version;'
      f' this version reads format {runs.FORMAT}. Run the command again in a'
      ' new directory (--workdir).'
    )
  grouped: dict[str, dict[str, list[dict[str, Any]]]] = {}
  for row in rows:
    splits = grouped.setdefault(row['variant'], {})
    splits.setdefault(row['split'], []).append(row)
  seeds = {
    tuple(row['seed'] for row in of_split)
    for splits in grouped.values()
    for of_split in splits.values()
  }
  if len(seeds) != 1:
    raise ValueError(
      f'{path}: expected the same seeds of every variant, got'
      f' {json.dumps(sorted(seeds))}.'
    )
  return Results(header, {k: _variant(splits) for k, splits in grouped.items()})


def _variant(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Variant:
  """One variant of its rows in each split."""
  scores = {}
  for split, rows in splits.items():
    names = [name for name in rows[0] if name not in _NOT_SCORES]
    scores[split] = {n: np.array([row[n] for row in rows]) for n in names}
  rows = next(iter(splits.values()))
  skipped = [row['skipped_steps'] for row in rows]
  return Variant(rows[0]['values'], scores, skipped)
