"""The report of a comparison: tables and figures from its results.

  python -m experiments.report DIRECTORY

writes `report.md` and its figures anew from `results.jsonl` and `curves.npz`.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.core import runs
from experiments.evaluation import statistics
from experiments.reporting import figures

Values = npt.NDArray[np.float64]
_NOT_SCORES = ('method', 'seed', 'split', 'skipped_steps')


class Results(NamedTuple):
  """The results of a comparison."""

  header: Mapping[str, Any]
  modalities: Sequence[str]
  metrics: Sequence[str]  # the first is the primary one
  scores: Mapping[str, Mapping[str, Values]]  # method -> score -> [seeds]
  skipped: Mapping[str, Sequence[int]]  # method -> non-finite steps, [seeds]
  seconds: Mapping[str, Values]  # method -> seconds a step, [calls]
  rehearsals: Mapping[str, float]  # method -> seconds of all together


def read(workdir: pathlib.Path) -> Results:
  """Reads `results.jsonl` of a comparison's directory.

  Raises:
    ValueError: if it does not begin with a header, or methods do not have the
      same seeds.
  """
  path = workdir / 'results.jsonl'
  header, *rows = runs.read_lines(path)
  names = [k for k in rows[0] if k not in _NOT_SCORES]
  scores: dict[str, dict[str, Values]] = {}
  skipped: dict[str, list[int]] = {}
  seeds = set()
  for method in dict.fromkeys(row['method'] for row in rows):
    own = [row for row in rows if row['method'] == method]
    seeds.add(tuple(row['seed'] for row in own))
    skipped[method] = [row['skipped_steps'] for row in own]
    scores[method] = {
      name: np.array([row[name] for row in own]) for name in names
    }
  if len(seeds) != 1:
    raise ValueError(f'{path}: the methods were run on different seeds.')
  return Results(
    header,
    modalities=header['objectives'][1:],
    metrics=header['config']['evaluation']['metrics'],
    scores=scores,
    skipped=skipped,
    seconds={k: np.array(v) for k, v in header['seconds_per_step'].items()},
    rehearsals={
      k: sum(v) for k, v in header.get('seconds_of_rehearsals', {}).items()
    },
  )


def summary(results: Results) -> dict[str, dict[str, Values]]:
  """What methods are compared by: column -> method -> [seeds], in 0..1."""

  def score(name: str) -> dict[str, Values]:
    return {method: scores[name] for method, scores in results.scores.items()}

  def over_modalities(kind: str, reduce: Any) -> dict[str, Values]:
    return {
      method: reduce(
        [scores[f'{kind}/{name}'] for name in results.modalities], 0
      )
      for method, scores in results.scores.items()
    }

  primary, *others = results.metrics
  columns = {
    'fused': score(f'{primary}/fused'),
    **{_words(metric): score(f'{metric}/fused') for metric in others},
    'uni-modal mean': over_modalities(primary, np.mean),
    'worst missing': over_modalities('missing', np.min),
  }
  if results.header['config']['evaluation']['noise_levels']:
    columns['robustness'] = score('relative_robustness')
  return columns


def tables(workdir: pathlib.Path) -> str:
  """The tables of a comparison's directory, in Markdown."""
  results = read(workdir)
  methods, modalities = list(results.scores), results.modalities
  number = len(next(iter(results.scores.values()))['accuracy/fused'])

  def score(name: str) -> dict[str, Values]:
    return {method: results.scores[method][name] for method in methods}

  primary = results.metrics[0]
  levels = results.header['config']['evaluation']['noise_levels']
  columns = summary(results)
  reference = methods[0]
  relative = {
    method: f'{relative_time(results, method, reference):.2f}'
    for method in methods
  }
  plural = 's' if number > 1 else ''
  diverged = [
    f'`{method}` skipped {max(steps)} steps of a seed, because losses or'
    ' gradients were not finite.'
    for method, steps in results.skipped.items()
    if max(steps) > 0
  ]
  title = _words(primary)
  return '\n\n'.join(
    [
      f'Test {title} in %, mean ± standard error over {number} seed{plural}.'
      ' **Bold** is the best of its column; = is a tie with it: over the same'
      ' seeds, a difference of no more than its own standard error.',
      table(columns, {f'time / {reference}': relative}),
      "Fused: the fused output. Uni-modal mean: of the modalities' own outputs."
      ' Worst missing: fused, without the modality that is missed most (zeros'
      ' for its input).'
      + (
        ' Robustness: fused, the mean over noise from 0 to'
        f' {max(levels):g} units (config.evaluation.noise_scale) on every'
        ' input.'
        if levels
        else ''
      )
      + f' Time: seconds a training step relative to {reference}, all seeds in'
      ' one program, median over calls; with what a method does between steps,'
      ' shared out over them.',
      *_tests(results, columns),
      f'{title.capitalize()} of each modality alone, by its own output:',
      table({name: score(f'{primary}/{name}') for name in modalities}),
      f'Fused {title} without one modality:',
      table({name: score(f'missing/{name}') for name in modalities}),
      f'What each modality contributes to the fused {title} (Shapley values,'
      ' which add up to what is gained over no input at all), and the mean'
      ' difference between two of them:',
      table(
        {
          **{name: score(f'shapley/{name}') for name in modalities},
          'imbalance': score('imbalance/shapley'),
        },
        mark_best=False,
      ),
      *diverged,
    ]
  )


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes `report.md`, `accuracy.png` and `curves.png`; returns the first."""
  results = read(workdir)
  figures.accuracy(
    results.scores,
    results.modalities,
    results.metrics[0],
    workdir / 'accuracy.png',
  )
  with np.load(workdir / 'curves.npz') as curves:
    figures.curves(
      curves,
      list(results.scores),
      results.header['objectives'],
      workdir / 'curves.png',
    )
  header = results.header
  config = header['config']
  versions = ', '.join(f'{k} {v}' for k, v in header['versions'].items())
  choices = {one['method']: _choice(one) for one in header.get('tuning', [])}
  methods = '\n'.join(
    f'- `{name}`: {_changes(config["recipes"][name])}{choices.get(name, "")}'
    for name in results.scores
  )
  path = workdir / 'report.md'
  runs.write_text(
    path,
    f'# {config["data"]["name"].capitalize()},'
    f' {config["data"]["config"]}: {len(results.scores)} methods\n\n'
    f'{tables(workdir)}\n\n'
    '![Accuracy of each method](accuracy.png)\n\n'
    '![Losses and weights in training](curves.png)\n\n'
    f'Methods:\n\n{methods}\n\n'
    f'Made by commit {header["commit"]} on {header["device"]}'
    f' ({header["num_devices"]}), with {versions}. `results.jsonl` has the'
    ' whole configuration and every run.\n',
  )
  return path


def _words(metric: str) -> str:
  """The name of a metric, for people."""
  return metric.replace('_', ' ').replace('f1', 'F1')


def _changes(changes: Mapping[str, Any]) -> str:
  """One method's changes to the configuration, for people."""
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


def _choice(tuned: Mapping[str, Any]) -> str:
  """What was tried of a method's grid, and what validation chose."""
  candidates = tuned['candidates']
  if len(candidates) == 1:
    return ''
  chosen = runs.best_candidate(candidates)
  tried = []
  for candidate in candidates:
    mean = 100 * np.mean(candidate['validation'])
    values = ', '.join(
      f'{path.split(".")[-1]}={value}'
      for path, value in candidate['values'].items()
    )
    text = f'{values} ({mean:.2f})'
    tried.append(f'**{text}**' if candidate == chosen else text)
  return (
    f'; of {"; ".join(tried)} by the fused output on validation, mean over'
    f' {len(chosen["validation"])} seeds'
  )


def relative_time(results: Results, method: str, reference: str) -> float:
  """Median ratio of two methods' times, call by call; rehearsals shared out."""
  theirs = results.seconds[reference]
  step = np.median(results.seconds[method] / theirs)
  rehearsal = results.rehearsals.get(method, 0.0)
  steps = results.header['config']['steps']
  return float(step + rehearsal / steps / np.median(theirs))


def _tests(
  results: Results, columns: Mapping[str, Mapping[str, Values]]
) -> list[str]:
  """The subject of a comparison against each other method."""
  subject = results.header['config'].get('subject')
  others = [method for method in results.scores if method != subject]
  if subject not in results.scores or not others:
    return []
  found = {
    (column, method): statistics.difference(
      100 * values[subject], 100 * values[method]
    )
    for column, values in columns.items()
    for method in others
  }
  corrected = statistics.holm({key: one.p_value for key, one in found.items()})
  cells: dict[str, dict[str, str]] = {column: {} for column in columns}
  for (column, method), one, p_value in zip(
    found, found.values(), corrected.values(), strict=True
  ):
    mean, error = one.estimate
    text = f'{mean:+.2f} ± {error:.2f}'
    cells[column][method] = f'**{text}**' if p_value < 0.05 else text
  return [
    f'What `{subject}` has more than each other method, over the same seeds;'
    ' **bold** if p < 0.05 in a paired t test, corrected by Holm for the'
    f' {len(found)} tests of this table:',
    lines(cells),
  ]


def table(
  columns: Mapping[str, Mapping[str, Values]],
  extra: Mapping[str, Mapping[str, str]] | None = None,
  mark_best: bool = True,
) -> str:
  """Markdown table of estimates in %, a row a method.

  Args:
    columns: column -> method -> values in 0..1, [seeds].
    extra: column -> method -> text, behind them.
    mark_best: whether to mark the best of each column, and ties with it.

  Returns:
    The lines.
  """
  cells: dict[str, dict[str, str]] = {}
  for column, values in columns.items():
    best, tied = statistics.ties(values, higher_is_better=True)
    cells[column] = {}
    for method, runs_ in values.items():
      mean, error = statistics.estimate(100 * runs_)
      text = f'{mean:.2f}' if np.isnan(error) else f'{mean:.2f} ± {error:.2f}'
      if mark_best and method == best:
        text = f'**{text}**'
      if mark_best and method in tied:
        text += ' ='
      cells[column][method] = text
  cells |= {name: dict(column) for name, column in (extra or {}).items()}
  return lines(cells)


def lines(cells: Mapping[str, Mapping[str, str]]) -> str:
  """Markdown table of column -> method -> text, a row a method."""
  methods = list(next(iter(cells.values())))
  lines = [['method', *cells]] + [
    [method, *(column[method] for column in cells.values())]
    for method in methods
  ]
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  lines.insert(1, ['-' * width for width in widths])
  return '\n'.join(
    '| '
    + ' | '.join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    )
    + ' |'
    for line in lines
  )


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit('Usage: python -m experiments.report DIRECTORY')
  directory = pathlib.Path(sys.argv[1])
  write(directory)
  print(tables(directory))
