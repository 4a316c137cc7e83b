"""The reports of a comparison and of a sweep: tables and figures."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.core import runs
from experiments.evaluation import statistics
from experiments.reporting import figures
from experiments.reporting import measures
from experiments.reporting import results as results_lib
from experiments.reporting import tables as tables_lib
from experiments.reporting.measures import Column
from experiments.reporting.measures import Measure
from experiments.reporting.measures import Values
from experiments.reporting.results import Results


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes the report of a directory that `compare` or `sweep` has filled.

  Args:
    workdir: with `results.jsonl` and, of a comparison, `curves.npz`.

  Returns:
    The path of `report.md`, or of a sweep's `sweep.md`. Its figures stand
    beside it.

  Raises:
    ValueError: if the results are of another format.
  """
  results = results_lib.read(workdir)
  if results.header['kind'] == 'sweep':
    name, noun, body = 'sweep.md', 'variant', _sweep(results, workdir)
  else:
    name, noun, body = 'report.md', 'recipe', _comparison(results, workdir)
  data = results.config['data']
  title = (
    f'# {data["name"].capitalize()}, {data["config"]}:'
    f' {count(len(results.variants), noun)}'
  )
  runs.write_text(workdir / name, '\n\n'.join([title, *body]) + '\n')
  return workdir / name


def tables(workdir: pathlib.Path) -> str:
  """The tables of a comparison or a sweep, in Markdown."""
  results = results_lib.read(workdir)
  is_sweep = results.header['kind'] == 'sweep'
  parts = _sweep_table(results) if is_sweep else _comparison_tables(results)
  return '\n\n'.join(parts)


def summary(results: Results) -> dict[str, Column]:
  """What the recipes of a comparison are compared by."""
  primary, *others = results.metrics
  measure = results.measure
  columns = {'fused': Column(measure, results.score(f'{primary}/fused'))}
  for name in others:
    other = Measure.of(name)
    is_alike = other.is_share == measure.is_share
    columns[other.words if is_alike else other.label] = Column(
      other, results.score(f'{name}/fused')
    )
  columns['uni-modal mean'] = Column(
    measure, _over_modalities(results, primary, np.mean)
  )
  worst = np.min if measure.higher_is_better else np.max
  columns['worst missing'] = Column(
    measure, _over_modalities(results, 'missing', worst)
  )
  if results.config['evaluation']['noise_levels']:
    columns['robustness'] = Column(
      measure, results.score('relative_robustness')
    )
  return columns


class Test(NamedTuple):
  """A subject against another recipe."""

  gain: Values  # above 0 where the subject is better, [seeds]
  p_value: float  # of a paired t test, corrected

  @property
  def is_significant(self) -> bool:
    """At 5 %."""
    return self.p_value < 0.05


def tests(
  columns: Mapping[statistics.Key, Column], subject: str
) -> dict[tuple[statistics.Key, str], Test]:
  """The subject against each other row of each column.

  Returns:
    (Column, other row) -> test, with Holm's correction for all of them.
  """
  gains = {
    (name, other): column.gain(subject, other)
    for name, column in columns.items()
    for other in column.values
    if other != subject
  }
  p_values = statistics.holm(
    {key: statistics.p_value(gain) for key, gain in gains.items()}
  )
  return {key: Test(gain, p_values[key]) for key, gain in gains.items()}


def made_by(headers: Sequence[Mapping[str, Any]]) -> str:
  """What made numbers: commits, device, versions of packages."""
  first = headers[0]
  commits = ', '.join(dict.fromkeys(str(one['commit']) for one in headers))
  versions = ', '.join(f'{k} {v}' for k, v in first['versions'].items())
  return (
    f'Made by commit {commits} on {first["device"]} ({first["num_devices"]}),'
    f' with {versions}'
  )


def errors_among(measures: Sequence[Measure]) -> str:
  """Says of which measures the least is the best; nothing if of none."""
  errors = dict.fromkeys(m.words for m in measures if not m.higher_is_better)
  return f' Of {" and ".join(errors)}, less is better.' if errors else ''


def count(number: int, noun: str) -> str:
  """A number of things, for people."""
  return f'{number} {noun}{"" if number == 1 else "s"}'


def _comparison(results: Results, workdir: pathlib.Path) -> list[str]:
  """The paragraphs of a comparison's report; draws its figures."""
  metric, title = results.metrics[0], tables_lib.capital(results.measure.words)
  figures.outputs(
    results.scores, results.modalities, metric, workdir / f'{metric}.png'
  )
  with np.load(workdir / 'curves.npz') as curves:
    figures.curves(
      curves,
      list(results.variants),
      ['fused', *results.modalities],
      workdir / 'curves.png',
    )
  return [
    *_comparison_tables(results),
    f'![{title} of each recipe]({metric}.png)',
    '![Losses and weights in training](curves.png)',
    'Recipes:',
    '\n'.join(
      f'- `{name}`: {_changes(results.config["recipes"][name])}'
      f'{_choice(results, name)}'
      for name in results.variants
    ),
    f'{made_by([results.header])}. `results.jsonl` has the whole configuration'
    ' and every run.',
  ]


def _comparison_tables(results: Results) -> list[str]:
  """The tables of a comparison, and what must be said of each."""
  measure, columns = results.measure, summary(results)
  reference = results.header['reference']
  levels = results.config['evaluation']['noise_levels']
  times = {
    name: f'{results.relative_time(name):.2f}' for name in results.variants
  }
  whole = {**measures.estimates(columns), f'time / {reference}': times}
  noise = (
    f' Robustness: fused, the mean over noise from 0 to {max(levels):g} units'
    ' (config.evaluation.noise_scale) on every input.'
    if levels
    else ''
  )
  change = (
    'what is gained over no input at all'
    if measure.higher_is_better
    else 'the change from no input at all: a gain is below 0'
  )

  def by_modality(kind: str) -> dict[str, Column]:
    return {
      name: Column(measure, results.score(f'{kind}/{name}'))
      for name in results.modalities
    }

  def table(some: Mapping[str, Column], mark_best: bool = True) -> str:
    return tables_lib.of_cells('recipe', measures.estimates(some, mark_best))

  return [
    f'Test {measure.prose}, mean ± standard error over'
    f' {count(results.num_seeds, "seed")}. **Bold** is the best of its column;'
    ' = is a tie with it: over the same seeds, a difference of no more than its'
    ' own standard error.'
    f'{errors_among([column.measure for column in columns.values()])}',
    tables_lib.of_cells('recipe', whole),
    "Fused: the fused output. Uni-modal mean: of the modalities' own outputs."
    ' Worst missing: fused, without the modality that is missed most (zeros for'
    f' its input).{noise} Time: seconds a training step relative to'
    f' {reference}, all seeds in one program, median over calls; with what a'
    ' method does between steps, shared out over them.',
    *_against_the_others(results, columns),
    f'{tables_lib.capital(measure.words)} of each modality alone, by its own'
    ' output:',
    table(by_modality(results.metrics[0])),
    f'Fused {measure.words} without one modality:',
    table(by_modality('missing')),
    f'What each modality contributes to the fused {measure.words} (Shapley'
    f' values, which add up to {change}), and the mean difference between two'
    ' of them:',
    table(
      by_modality('shapley')
      | {'imbalance': Column(measure, results.score('imbalance/shapley'))},
      mark_best=False,
    ),
    *_skipped(results),
  ]


def _against_the_others(
  results: Results, columns: Mapping[str, Column]
) -> list[str]:
  """The subject of a comparison against each other recipe."""
  subject = results.header['subject']
  if subject not in results.variants or len(results.variants) < 2:
    return []
  found = tests(columns, subject)
  cells: dict[str, dict[str, str]] = {}
  for (column, other), test in found.items():
    text = columns[column].measure.text(test.gain, sign='+')
    cells.setdefault(column, {})[other] = (
      f'**{text}**' if test.is_significant else text
    )
  return [
    f'By how much `{subject}` is better (+) or worse (-) than each other'
    ' recipe, over the same seeds; **bold** if p < 0.05 in a paired t test,'
    f' corrected by Holm for the {len(found)} tests of this table:',
    tables_lib.of_cells('recipe', cells),
  ]


def _over_modalities(
  results: Results, kind: str, reduce: Callable[..., Any]
) -> dict[str, Values]:
  """A score of each modality reduced to one: label -> [seeds]."""
  of_modality = [results.score(f'{kind}/{m}') for m in results.modalities]
  return {
    label: reduce([values[label] for values in of_modality], 0)
    for label in results.variants
  }


def _skipped(results: Results) -> list[str]:
  """Says whose losses or gradients were not finite."""
  return [
    f'`{label}` skipped {count(max(variant.skipped), "step")} of a seed,'
    ' because losses or gradients were not finite.'
    for label, variant in results.variants.items()
    if max(variant.skipped) > 0
  ]


def _changes(changes: Mapping[str, Any]) -> str:
  """What a recipe changes of the configuration, for people."""
  words = []
  for topic in ('method', 'weighting'):
    arguments = dict(changes.get(topic, {}))
    if name := arguments.pop('name', None):
      given = ', '.join(f'{k}={v}' for k, v in arguments.items())
      words.append(f'{topic} `{name}({given})`')
  words += [
    f'{topic} {key} = {value}'
    for topic, values in changes.items()
    if topic not in ('method', 'weighting', 'grid')
    and isinstance(values, Mapping)
    for key, value in values.items()
  ]
  return ', '.join(words)


def _choice(results: Results, recipe: str) -> str:
  """What was tried of a recipe's grid, and what validation chose."""
  if recipe not in results.tuned():
    return ''
  chosen, candidates = results.tuned()[recipe]
  tried = []
  for candidate in candidates:
    mean = results.measure.text([np.mean(candidate['validation'])])
    text = f'{short(candidate["values"], "=")} ({mean})'
    tried.append(f'**{text}**' if candidate is chosen else text)
  return (
    f'; of {"; ".join(tried)} by the fused output on validation, mean over'
    f' {count(len(chosen["validation"]), "seed")}'
  )


def short(values: Mapping[str, Any], sign: str) -> str:
  """Values of a configuration by the last parts of their keys."""
  return ', '.join(
    f'{key.rpartition(".")[2]}{sign}{value}' for key, value in values.items()
  )


def _sweep(results: Results, workdir: pathlib.Path) -> list[str]:
  """The paragraphs of a sweep's report; draws its heat map."""
  parts = _sweep_table(results)
  if _draw_heat_map(results, workdir / 'heatmap.png'):
    parts += [
      '![Scores of the grid](heatmap.png)',
      'Framed: the best on validation.',
    ]
  programs = count(len(results.header['programs']), 'program')
  return [*parts, f'{programs}. {made_by([results.header])}.']


def _sweep_table(results: Results) -> list[str]:
  """A row a variant, and what must be said of it."""
  primary, measure = results.metrics[0], results.measure
  best = _best_on_validation(results)
  columns = {
    'validation': results.score(f'{primary}/fused', 'validation'),
    'test': results.score(f'{primary}/fused'),
    **{name: results.score(f'{primary}/{name}') for name in results.modalities},
    'uni-modal mean': _over_modalities(results, primary, np.mean),
  }
  rows = []
  for label, variant in results.variants.items():
    cells = [*map(tables_lib.value, variant.values.values())]
    cells += [measure.text(column[label]) for column in columns.values()]
    rows.append([f'**{c}**' for c in cells] if label == best else cells)
  return [
    f'{tables_lib.capital(measure.prose)}, mean ± standard error over'
    f' {count(results.num_seeds, "seed")}: of the fused output on validation'
    " and test, and of each modality's own output on test. **Bold** is the best"
    ' on validation, which chooses; the best of many on test would flatter.'
    f'{errors_among([measure])}',
    tables_lib.markdown([*results.variants[best].values, *columns], rows),
    *_skipped(results),
  ]


def _best_on_validation(results: Results) -> str:
  """The label of a sweep's best variant."""
  scores = results.score(f'{results.metrics[0]}/fused', 'validation')
  place = statistics.best(
    list(scores.values()), results.measure.higher_is_better
  )
  return list(scores)[place]


def _draw_heat_map(results: Results, path: pathlib.Path) -> bool:
  """Draws a grid of two floats; says whether the sweep is one."""
  of_variants = {k: one.values for k, one in results.variants.items()}
  keys = list(next(iter(of_variants.values())))
  if len(keys) != 2 or not all(
    isinstance(value, float)
    for values in of_variants.values()
    for value in values.values()
  ):
    return False
  rows, columns = (
    sorted({values[key] for values in of_variants.values()}) for key in keys
  )
  if len(rows) * len(columns) != len(of_variants):
    return False
  places = {
    label: (rows.index(values[keys[0]]), columns.index(values[keys[1]]))
    for label, values in of_variants.items()
  }

  def grid(scores: Mapping[str, Values]) -> Values:
    cells = np.zeros((len(rows), len(columns)))
    for label, place in places.items():
      cells[place] = np.mean(scores[label])
    return cells

  primary = results.metrics[0]
  figures.heat_map(
    {
      'fused output': grid(results.score(f'{primary}/fused')),
      'uni-modal mean': grid(_over_modalities(results, primary, np.mean)),
    },
    results.measure,
    rows=(keys[0], [tables_lib.value(value) for value in rows]),
    columns=(keys[1], [tables_lib.value(value) for value in columns]),
    marked=places[_best_on_validation(results)],
    path=path,
  )
  return True
