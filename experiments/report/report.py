"""The reports of a comparison and of a sweep: tables and figures."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.core import runs
from experiments.evaluate import statistics
from experiments.methods import recipes
from experiments.report import figures
from experiments.report import measures
from experiments.report import page
from experiments.report import protocol
from experiments.report import results as results_lib
from experiments.report import tables as tables_lib
from experiments.report import tidy
from experiments.report.measures import Column
from experiments.report.measures import Measure
from experiments.report.measures import Values
from experiments.report.results import Results


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes the report of a directory that `compare` or `sweep` has filled.

  That is `report.md`, or a sweep's `sweep.md`, with its figures beside it, from
  `results.jsonl` and, of a comparison, `curves.npz`; the same as one HTML page,
  and every score in `results.csv`.

  Raises:
    ValueError: if the results are of another format.
  """
  results = results_lib.read(workdir)
  if results.header['kind'] == 'sweep':
    name, noun, rest = 'sweep.md', 'variant', _rest_of_sweep(results, workdir)
  else:
    name, noun, rest = 'report.md', 'recipe', _rest_of_report(results, workdir)
  data, number = (
    results.config['data'],
    tables_lib.count(len(results.variants), noun),
  )
  title = f'# {data["name"].capitalize()}, {data["config"]}: {number}'
  text = '\n\n'.join([title, *_tables(results), *rest])
  runs.write_text(workdir / name, text + '\n')
  page.write(workdir / name)
  rows = runs.read_lines(workdir / 'results.jsonl')
  tidy.write(workdir, {workdir.name: rows})
  return workdir / name


def tables(workdir: pathlib.Path) -> str:
  """The tables of a comparison or a sweep, in Markdown."""
  return '\n\n'.join(_tables(results_lib.read(workdir)))


def summary(results: Results) -> dict[str, Column]:
  """What the recipes of a comparison are compared by."""
  primary, *others = results.header['metrics']
  measure = results.measure
  columns = {}
  if results.tuning:
    columns['chosen'] = results.chosen('last')
    columns['stopped early'] = results.chosen('stopped')
  columns['fused'] = results.column(f'{primary}/fused')
  for name in others:
    other = Measure.of(name)
    is_alike = other.is_share == measure.is_share
    scores = results.score(f'{name}/fused')
    columns[other.words if is_alike else other.label] = Column(other, scores)
  worst = np.min if measure.higher_is_better else np.max
  columns['uni-modal mean'] = results.over_modalities(primary, np.mean)
  columns['worst missing'] = results.over_modalities('missing', worst)
  if any(results.config['evaluation']['noise_levels']):
    columns['robustness'] = results.column('relative_robustness')
  return columns


def tests(
  columns: Mapping[statistics.Key, Column], subject: str
) -> dict[tuple[statistics.Key, str], tuple[Values, bool]]:
  """The subject against each other row of each column.

  Returns:
    (Column, other row) -> by how much the subject is better, [seeds], and
    whether a paired t test finds it, at 5 % after Holm for all of them. A
    column without the subject has none.
  """
  gains = {}
  for name, (measure, values) in columns.items():
    sign = 1 if measure.higher_is_better else -1
    for other in values if subject in values else ():
      if other != subject:
        gains[name, other] = sign * (values[subject] - values[other])
  p_values = {key: statistics.p_value(gain) for key, gain in gains.items()}
  corrected = statistics.holm(p_values)
  return {key: (gain, corrected[key] < 0.05) for key, gain in gains.items()}


def made_by(headers: Sequence[Mapping[str, Any]]) -> str:
  """What made numbers: commits, device, versions of packages."""
  first = headers[0]
  commits = ', '.join(dict.fromkeys(str(one['commit']) for one in headers))
  versions = ', '.join(f'{k} {v}' for k, v in first['versions'].items())
  return (
    f'Made by commit {commits} on {first["device"]} ({first["num_devices"]}),'
    f' with {versions}'
  )


def left_out(results: Results, where: str = '') -> list[str]:
  """Says which recipes refused the model of a comparison, and why."""
  refusals = results.config.get('left_out', {}).items()
  return [f'`{name}` is left out{where}: {why}' for name, why in refusals]


def errors_among(measures: Sequence[Measure]) -> str:
  """Says of which measures the least is the best; nothing if of none."""
  errors = dict.fromkeys(m.words for m in measures if not m.higher_is_better)
  return f' Lower is better for {" and ".join(errors)}.' if errors else ''


def _tables(results: Results) -> list[str]:
  """The tables, what must be said of each, and of runs that went wrong."""
  is_sweep = results.header['kind'] == 'sweep'
  parts = _sweep_table(results) if is_sweep else _comparison_tables(results)
  for label, variant in results.variants.items():
    if most := max(variant.skipped):
      parts.append(
        f'`{label}` skipped up to {tables_lib.count(most, "step")} per seed,'
        ' because losses or gradients were not finite.'
      )
  return parts


def _seeds(results: Results) -> str:
  return tables_lib.count(
    len(next(iter(results.variants.values())).skipped), 'seed'
  )


def _comparison_tables(results: Results) -> list[str]:
  measure, columns = results.measure, summary(results)
  noise = ''
  if 'robustness' in columns:
    most = max(results.config['evaluation']['noise_levels'])
    noise = (
      ' Robustness: the fused output, averaged over noise from 0 to'
      f' {most:g} units (config.evaluation.noise_scale) on every input.'
    )
  change = 'the gain over no input at all'
  if not measure.higher_is_better:
    change = 'the change from no input at all, so that a gain is negative'

  def table(kind: str, mark_best: bool = True, **others: Column) -> str:
    some = {m: results.column(f'{kind}/{m}') for m in results.modalities}
    cells = measures.estimates(some | others, mark_best)
    return tables_lib.of_cells('recipe', cells)

  return [
    f'Test {measure.prose}, mean ± standard error over {_seeds(results)}.'
    ' **Bold** marks the best of each column, and = a tie with it: a paired'
    ' difference over the same seeds of at most one standard error.'
    f'{errors_among([column.measure for column in columns.values()])}',
    tables_lib.of_cells(
      'recipe', measures.estimates(columns) | protocol.costs([results])
    ),
    *protocol.parts(results),
    "Fused: the fused output. Uni-modal mean: the mean over the modalities' own"
    ' outputs. Worst missing: the fused output without the modality that it'
    f' needs most (zeros for its input).{noise}'
    f' {protocol.about_costs(results)}',
    *_against_the_others(results, columns),
    f"{tables_lib.capital(measure.words)} of each modality's own output:",
    table(results.primary),
    f'Fused {measure.words} without one modality:',
    table('missing'),
    f'Contribution of each modality to the fused {measure.words} (Shapley'
    f' values; they add up to {change}), and the mean difference between two of'
    ' them:',
    table('shapley', False, imbalance=results.column('imbalance/shapley')),
  ]


def _against_the_others(
  results: Results, columns: Mapping[str, Column]
) -> list[str]:
  """The subject of a comparison against each other recipe."""
  subject = results.header['subject']
  if not (found := tests(columns, subject)):
    return []
  cells: dict[str, dict[str, str]] = {name: {} for name in columns}
  for (name, other), (gain, is_found) in found.items():
    text = columns[name].measure.text(gain, sign='+')
    cells[name][other] = f'**{text}**' if is_found else text
  return [
    f'How much better (+) or worse (-) `{subject}` is than each other recipe,'
    ' over the same seeds; **bold** if p < 0.05 in a paired t test, with'
    f" Holm's correction for the {len(found)} tests of this table:",
    tables_lib.of_cells('recipe', cells),
  ]


def _rest_of_report(results: Results, workdir: pathlib.Path) -> list[str]:
  """What a comparison's report has besides tables; draws its figures."""
  drawing = f'{results.primary.rpartition(":")[2]}.png'
  title = tables_lib.capital(results.measure.words)
  figures.outputs(results, workdir / drawing)
  with np.load(workdir / 'curves.npz') as curves:
    figures.curves(results, curves, workdir / 'curves.png')
    drawn = 'Losses and weights in training'
    if figures.conflicts(curves):
      drawn = (
        'Losses, weights, and, for rules that see gradients, the share of'
        ' pairs of objectives whose gradients conflict'
      )
  changes = results.config['recipes']
  told = [
    f'- `{name}`: {_changes(recipes.changes_of(changes, name))}'
    for name in results.variants
  ]
  return [
    f'![{title} of each recipe]({drawing})',
    f'![{drawn}](curves.png)',
    'Recipes:',
    '\n'.join(told),
    *left_out(results),
    f'{made_by([results.header])}. `results.jsonl` has the whole configuration'
    ' and every run.',
  ]


def _changes(changes: Mapping[str, Any]) -> str:
  """What a recipe changes of the configuration, for people."""
  words = []
  for topic in ('method', 'weighting'):
    arguments = dict(changes.get(topic, {}))
    if name := arguments.pop('name', None):
      words.append(f'{topic} `{name}({tables_lib.short(arguments, "=")})`')
  for topic, values in changes.items():
    is_told = topic in ('method', 'weighting', 'space')
    if not is_told and isinstance(values, Mapping):
      words += [f'{topic} {key} = {value}' for key, value in values.items()]
  return ', '.join(words)


def _sweep_table(results: Results) -> list[str]:
  primary, measure = results.primary, results.measure
  best = _best_on_validation(results)
  columns = {
    'validation': results.column(f'{primary}/fused', 'validation'),
    'test': results.column(f'{primary}/fused'),
    **{m: results.column(f'{primary}/{m}') for m in results.modalities},
    'uni-modal mean': results.over_modalities(primary, np.mean),
  }
  rows = []
  for label, variant in results.variants.items():
    cells = [*map(tables_lib.value, variant.values.values())]
    cells += [measure.text(one.values[label]) for one in columns.values()]
    rows.append([f'**{c}**' for c in cells] if label == best else cells)
  return [
    f'{tables_lib.capital(measure.prose)}, mean ± standard error over'
    f' {_seeds(results)}: of the fused output on validation and test, and of'
    " each modality's own output on test. **Bold** marks the best on"
    ' validation; choosing the best on test would bias its score upwards.'
    f'{errors_among([measure])}',
    tables_lib.markdown([*results.variants[best].values, *columns], rows),
  ]


def _best_on_validation(results: Results) -> str:
  """The label of a sweep's best variant."""
  scores = results.score(f'{results.primary}/fused', 'validation')
  return statistics.ties(scores, results.measure.higher_is_better)[0]


def _rest_of_sweep(results: Results, workdir: pathlib.Path) -> list[str]:
  """What a sweep's report has besides its table; draws a grid of two floats."""
  programs = tables_lib.count(len(results.header['programs']), 'program')
  source = f'{programs}. {made_by([results.header])}.'
  keys, *_ = (list(one.values) for one in results.variants.values())
  points = {
    label: tuple(one.values[key] for key in keys)
    for label, one in results.variants.items()
  }
  numbers = itertools.chain(*points.values())
  if len(keys) != 2 or not all(isinstance(one, float) for one in numbers):
    return [source]
  axes = [sorted(set(axis)) for axis in zip(*points.values(), strict=True)]
  labels = sorted(points, key=points.__getitem__)
  if list(itertools.product(*axes)) != [points[label] for label in labels]:
    return [source]
  columns = {
    'fused output': results.column(f'{results.primary}/fused'),
    'uni-modal mean': results.over_modalities(results.primary, np.mean),
  }
  panels = {}
  for title, (_, values) in columns.items():
    means = [np.mean(values[label]) for label in labels]
    panels[title] = np.reshape(means, (-1, len(axes[1])))
  names = [[tables_lib.value(value) for value in axis] for axis in axes]
  figures.heat_map(
    panels,
    results.measure,
    rows=(keys[0], names[0]),
    columns=(keys[1], names[1]),
    marked=divmod(labels.index(_best_on_validation(results)), len(axes[1])),
    path=workdir / 'heatmap.png',
  )
  return [
    '![Scores of the grid](heatmap.png)',
    'Framed: the best on validation.',
    source,
  ]
