"""The report over a study's comparisons, which differ in one thing."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.core import runs
from experiments.report import figures
from experiments.report import measures
from experiments.report import page
from experiments.report import protocol
from experiments.report import report
from experiments.report import tables
from experiments.report.results import Results

Columns = Mapping[str, measures.Column]  # what recipes are compared by


class Setting(NamedTuple):
  """One comparison of a study."""

  family: str  # a row of the figure
  place: float | None  # on the axis, if there is one
  config: str  # a file of experiments/configs and its argument
  changes: tuple[tuple[str, Any], ...] = ()  # dotted keys and values
  seeds: int = 10  # runs of each recipe
  candidates: int = 5  # of each recipe; where its space grows, as many more
  tuning_seeds: int = 3  # runs of each candidate

  @property
  def name(self) -> str:
    """Its column's name in tables."""
    if self.place is None:
      return self.family
    return f'{self.family}, {self.place:g}'


class Study(NamedTuple):
  """Settings that differ in one thing."""

  title: str
  axis: str | None  # what `place` is; None: what the family is named after
  settings: Sequence[Setting]
  about: str  # a paragraph for the report
  # What to compare recipes by in one setting; None: by `report.summary`.
  columns: Callable[[Setting, Results], Columns] | None = None


def write(
  study: Study,
  results: Mapping[Setting, Results],
  directory: pathlib.Path,
  command: str,
) -> pathlib.Path:
  """Writes `report.md` and `lines.png` of a study, which `command` has run."""
  directory.mkdir(parents=True, exist_ok=True)
  columns = {
    setting: study.columns(setting, one)
    if study.columns
    else report.summary(one)
    for setting, one in results.items()
  }
  some = next(iter(results.values()))
  subject = some.header['subject']
  points = {
    (k.family, k.place): one
    for k, one in columns.items()
    if k.place is not None
  }
  figure = []
  if points:
    figures.lines(points, study.axis, subject, directory / 'lines.png')
    families = dict.fromkeys(family for family, _ in points)
    axis = study.axis or ' and '.join(families)
    figure = [f'![Every measure over {axis}](lines.png)']
  parts = [
    f'# {study.title}',
    study.about,
    'Every recipe starts from the same parameters, and sees the same batches in'
    ' the same order for the same number of steps.',
    *_about_tuning(results),
    *(
      text
      for setting, one in results.items()
      for text in report.left_out(one, f' on {setting.name}')
    ),
    *_left(study, results),
    *figure,
    *_tables(columns),
    *_wins(columns, subject),
    *(
      text
      for setting, one in results.items()
      if one.tuning
      for text in protocol.choices(one, f' on {setting.name}')
    ),
    f'{protocol.about_costs(some)} Medians over the settings. With networks'
    ' this small, much of the time is overhead, not arithmetic.',
    tables.of_cells(
      'recipe', protocol.costs([results[one] for one in _once(results)])
    ),
    f'{report.made_by([one.header for one in results.values()])}, by'
    f' `{command}`.',
  ]
  path = directory / 'report.md'
  runs.write_text(path, '\n\n'.join(parts) + '\n')
  page.write(path)
  return path


def _once(settings: Iterable[Setting]) -> list[Setting]:
  """The settings; of those that are equal but in their family, the last."""
  return list({(one.config, one.changes): one for one in settings}.values())


def _about_tuning(results: Mapping[Setting, Results]) -> list[str]:
  """Says how recipes were tuned, once for settings that were tuned alike."""
  said: dict[str, list[str]] = {}
  for setting, one in results.items():
    if one.tuning:
      said.setdefault(protocol.about_tuning(one), []).append(setting.name)
  if len(said) <= 1:
    return list(said)
  return [f'*{", ".join(names)}*: {text}' for text, names in said.items()]


def _left(study: Study, results: Mapping[Setting, Results]) -> list[str]:
  """The settings of the study that have not been measured."""
  left = [one.name for one in study.settings if one not in results]
  return [f'Not measured yet: {", ".join(left)}.'] if left else []


def _tables(columns: Mapping[Setting, Columns]) -> list[str]:
  """One table per measure, with a row per recipe and a column per setting."""
  parts = []
  for name in dict.fromkeys(name for one in columns.values() for name in one):
    found = {k.name: one[name] for k, one in columns.items() if name in one}
    measure = next(iter(found.values())).measure
    parts += [
      f'**{tables.capital(name)}**, test {measure.prose}, mean ± standard'
      ' error; **bold** marks the best of each column, = a tie with it.'
      f'{report.errors_among([measure])}',
      tables.of_cells('recipe', measures.estimates(found)),
    ]
  return parts


def _wins(columns: Mapping[Setting, Columns], subject: str) -> list[str]:
  """How often the subject is better and worse than each other recipe."""
  compared = {
    (name, setting): column
    for setting in _once(columns)
    for name, column in columns[setting].items()
  }
  if not (found := report.tests(compared, subject)):
    return []
  counts: dict[str, dict[str, list[int]]] = {}
  for ((name, _), other), (gain, is_found) in found.items():
    three = counts.setdefault(name, {}).setdefault(other, [0, 0, 0])
    three[1 if not is_found else 0 if np.mean(gain) > 0 else 2] += 1
  cells = {
    name: {other: ' / '.join(map(str, three)) for other, three in one.items()}
    for name, one in counts.items()
  }
  return [
    f'## Against `{subject}`',
    f'Number of settings in which `{subject}` is significantly better than /'
    ' not distinguishable from / significantly worse than each other recipe:'
    " paired t tests over seeds, at 5 % with Holm's correction for all"
    f' {len(found)}.',
    tables.of_cells('recipe', cells),
  ]
