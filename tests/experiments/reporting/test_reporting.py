"""Reports of comparisons, sweeps and studies whose numbers are chosen."""

import json
import re

import numpy as np
import pytest

from experiments.configs import handwritten
from experiments.core import runs
from experiments.evaluation import choosing
from experiments.reporting import figures
from experiments.reporting import measures
from experiments.reporting import report
from experiments.reporting import results as results_lib
from experiments.reporting import studies
from experiments.reporting import tables

NAMES = (
  'M/fused M/fou M/pix missing/fou missing/pix relative_robustness noise/2'
  ' shapley/fou shapley/pix imbalance/shapley'
)
ERROR = 'mean_absolute_error'
PENALTY = {'weighting.penalty': 2.0}


def write_results(workdir, rows, **changes):
  """A directory as a comparison leaves it, or with changes of its header."""
  config = handwritten.get_config('two,smoke')
  labels = list(dict.fromkeys(row['variant'] for row in rows))
  header = {
    'format': 3, 'kind': 'compare',
    'config': json.loads(json.dumps(config.to_dict())),
    'versions': {'jax': '1.2.3'}, 'commit': 'abc',
    'device': 'cpu', 'num_devices': 1,
    'modalities': ['fou', 'pix'], 'metrics': ['accuracy'],
    'reference': labels[0], 'subject': '', 'tuning': [],
    'seconds_per_step': {label: [1.0, 1.0] for label in labels},
    'seconds_of_rehearsals': {label: [] for label in labels},
    'seconds': {label: 2.0 for label in labels},
    'megabytes': {label: 1.0 + i for i, label in enumerate(labels)},
  }  # fmt: skip
  workdir.mkdir(exist_ok=True)
  defaults = {'values': {}, 'seed': 0, 'split': 'test', 'skipped_steps': 0}
  lines = [header | changes, *(defaults | row for row in rows)]
  runs.write_lines(workdir / 'results.jsonl', lines)
  generator = np.random.default_rng(0)
  names = [f'{k}/{label}' for k in ('losses', 'weights') for label in labels]
  curves = {name: generator.uniform(0.1, 2.0, (2, 5, 3)) for name in names}
  np.savez(workdir / 'curves.npz', **curves)
  return workdir


def rows_of(values, metric='accuracy'):
  """Rows of recipe -> [seeds, names]."""
  names = NAMES.replace('M', metric).split()
  return [
    {'variant': recipe, 'seed': seed} | dict(zip(names, scores, strict=True))
    for recipe, of_recipe in values.items()
    for seed, scores in enumerate(of_recipe)
  ]


def tuning_of(recipe, scores):
  """What a header says of a recipe whose heads were best in the end."""
  validation = {'fused': [[s, s - 0.1] for s in scores]}
  validation['heads'] = [[s, s] for s in scores]
  early = choosing.Choice(0, 'fused', 10, np.mean(scores), 0.01, 1)
  last = choosing.Choice(0, 'heads', 20, np.mean(scores), 0.01, 3)
  return {
    'recipe': recipe,
    'candidates': [{'values': PENALTY, 'validation': validation}],
    'steps': [10, 20],
    'seconds': 5.0,
    'chosen': {'last': last._asdict(), 'stopped': early._asdict()},
  }


def stopped(rows):
  """Rows of runs that were stopped early, with less."""
  scores = {'split': results_lib.STOPPED, 'step': 10}
  return [
    row | scores | {name: 0.25 for name in row if name.endswith('/fused')}
    for row in rows
  ]


def tables_of(text):
  """The cells of each Markdown table in a text, without the rule."""
  found = []
  for table in re.findall(r'(?:^\|.*(?:\n|$))+', text, re.MULTILINE):
    head, rule, *lines = (
      [cell.strip() for cell in line.strip('| ').split('|')]
      for line in table.splitlines()
    )
    assert all(re.fullmatch('-+:?', cell) for cell in rule)
    found.append([head, *lines])
  return found


def assert_pictures(workdir, text, *names):
  """PNGs that a report shows."""
  for name in names:
    assert (workdir / name).read_bytes().startswith(b'\x89PNG')
    assert f'({name})' in text


COMPARISON = {
  'joint': [
    [0.5, 0.25, 0.75, 0.5, 0.25, 0.4, 0.3, 0.1, 0.4, 0.3],
    [0.6, 0.35, 0.65, 0.3, 0.5, 0.4, 0.3, 0.3, 0.2, 0.1],
  ],
  'sum': [
    [0.5, 0.75, 0.75, 0.5, 0.5, 0.5, 0.3, 0.2, 0.2, 0.0],
    [0.4, 0.65, 0.75, 0.5, 0.5, 0.4, 0.3, 0.2, 0.2, 0.0],
  ],
}


def test_a_comparison_shows_what_was_measured(tmp_path):
  rows = rows_of(COMPARISON)
  rows[3]['skipped_steps'] = 3
  seconds = {'joint': [1.0, 2.0, 4.0], 'sum': [1.5, 3.0, 4.0]}
  write_results(tmp_path, rows, seconds_per_step=seconds)
  text = report.write(tmp_path).read_text()
  summary, own, missing, contributions = tables_of(text)
  assert summary == [
    ['recipe', 'fused', 'uni-modal mean', 'worst missing', 'robustness',
     'time / joint', 'memory / joint'],
    ['joint', '**55.00 ± 5.00**', '50.00 ± 0.00', '27.50 ± 2.50',
     '40.00 ± 0.00 =', '1.00', '1.00'],
    ['sum', '45.00 ± 5.00 =', '**72.50 ± 2.50**', '**50.00 ± 0.00**',
     '**45.00 ± 5.00**', '1.50', '2.00'],
  ]  # fmt: skip
  assert own[1] == ['joint', '30.00 ± 5.00', '70.00 ± 5.00 =']
  assert missing[2] == ['sum', '**50.00 ± 0.00**', '**50.00 ± 0.00**']
  assert contributions[:2] == [
    ['recipe', 'fou', 'pix', 'imbalance'],
    ['joint', '20.00 ± 10.00', '30.00 ± 10.00', '20.00 ± 10.00'],
  ]
  assert 'Test accuracy in %, mean ± standard error over 2 seeds' in text
  assert 'less is better' not in text
  assert '`sum` skipped 3 steps' in text and '`joint` skipped' not in text
  assert '- `joint`: weighting `joint()`\n' in text
  assert 'mimo(penalty' not in text  # a recipe that was not run
  assert_pictures(tmp_path, text, 'accuracy.png', 'curves.png')
  assert report.tables(tmp_path) in text


@pytest.mark.quick
def test_a_regression_is_compared_by_its_error(tmp_path):
  """The least error is the best, and what is less is a gain."""
  quiet = 0.001 * np.arange(4)
  errors = {'joint': 0.8 + quiet, 'mimo': 0.6 - quiet, 'sum': 0.7 + 0 * quiet}
  others = [1.0, 0.9, 0.0, 1.2, -0.2, -0.1, 0.1]
  scores = {
    recipe: [[error, error + 0.1, error + 0.3, *others] for error in of_recipe]
    for recipe, of_recipe in errors.items()
  }
  rows = rows_of(scores, ERROR)
  for row in rows:
    row |= {'correlation/fused': row['seed'] / 8, 'binary_accuracy/fused': 0.5}
  write_results(
    tmp_path,
    rows,
    metrics=[ERROR, 'correlation', 'binary_accuracy'],
    subject='mimo',
  )
  text = report.write(tmp_path).read_text()
  summary, against, own, *_ = tables_of(text)
  mimo = dict(zip(summary[0], summary[2], strict=True))
  assert list(mimo.items())[:6] == [
    ('recipe', 'mimo'),
    ('fused', '**0.5985 ± 0.0006**'),
    ('correlation', '0.1875 ± 0.0807 ='),
    ('binary accuracy, %', '50.00 ± 0.00 ='),
    ('uni-modal mean', '**0.7985 ± 0.0006**'),
    ('worst missing', '1.0000 ± 0.0000 ='),  # as all
  ]
  assert [row[0] for row in own if row[1].startswith('**')] == ['mimo']
  assert against[1][:2] == ['joint', '**+0.2030 ± 0.0013**']
  assert against[2][:2] == ['sum', '**+0.1015 ± 0.0006**']
  for part in (
    'Test mean absolute error, mean ±',
    'Of mean absolute error, less is better.',
    'a gain is below 0',
    '![Mean absolute error of each recipe](mean_absolute_error.png)',
  ):
    assert part in text
  assert_pictures(tmp_path, text, f'{ERROR}.png')


@pytest.mark.quick
def test_results_that_cannot_be_read_are_refused(tmp_path):
  rows = rows_of(COMPARISON)
  path = tmp_path / 'results.jsonl'
  write_results(tmp_path, rows)
  path.write_text('\n'.join(path.read_text().splitlines()[1:]) + '\n')
  with pytest.raises(ValueError, match=r'results\.jsonl.*header'):
    report.tables(tmp_path)
  write_results(tmp_path, rows, format=1)
  with pytest.raises(ValueError, match=r'format 1.*again in a new directory'):
    report.tables(tmp_path)
  write_results(tmp_path, rows[:-1])
  with pytest.raises(ValueError, match=r'same seeds.*\[\[0\], \[0, 1\]\]'):
    report.tables(tmp_path)


def test_a_rehearsal_counts_as_time_of_its_recipe(tmp_path):
  write_results(
    tmp_path,
    rows_of(COMPARISON),
    seconds_per_step={'joint': [0.1, 0.1], 'sum': [0.2, 0.2]},
    seconds_of_rehearsals={'joint': [], 'sum': [3.0, 3.0]},
  )
  # 30 steps of 0.1 s: 6 s of rehearsal are two more of them each.
  time = results_lib.read(tmp_path).relative_time('sum')
  np.testing.assert_allclose(time, 2 + 2)


# Sweeps.


def write_sweep(workdir, tried, scores, metric='accuracy'):
  """A sweep's directory: values of variants, and [variants, seeds, 4]."""
  names = [f'{metric}/{name}' for name in ('fused', 'fou', 'pix')]
  rows = []
  for i, (values, of_values) in enumerate(zip(tried, scores, strict=True)):
    label = ', '.join(f'{k}={v}' for k, v in values.items())
    for seed, (validation, *test) in enumerate(of_values):
      row = {'variant': label, 'values': values, 'seed': seed}
      row['skipped_steps'] = 2 * seed if i == 1 else 0
      for split, found in (
        ('validation', (validation, 0.1, 0.1)),
        ('test', test),
      ):
        of_split = dict(zip(names, found, strict=True))
        rows.append(row | {'split': split} | of_split)
  changes = {'kind': 'sweep', 'metrics': [metric], 'programs': [{}]}
  return write_results(workdir, rows, **changes)


@pytest.mark.parametrize('metric', ['accuracy', ERROR])
def test_a_sweep_marks_the_best_on_validation(tmp_path, metric):
  tried = [{'weighting.name': 'sum'}, {'weighting.name': 'mgda'}]
  scores = [
    [[0.50, 0.90, 0.4, 0.2], [0.60, 0.80, 0.4, 0.4]],
    [[0.75, 0.55, 0.1, 0.3], [0.65, 0.65, 0.3, 0.5]],
  ]
  text = report.write(write_sweep(tmp_path, tried, scores, metric)).read_text()
  (table,) = tables_of(text)
  means = {
    'sum': ((55, 5), (85, 5), (40, 0), (30, 10), (35, 5)),
    'mgda': ((70, 5), (60, 5), (20, 10), (40, 10), (30, 10)),
  }
  rows = []
  for name, pairs in means.items():
    if metric == ERROR:
      cells = [f'{a / 100:.4f} ± {b / 100:.4f}' for a, b in pairs]
    else:
      cells = [f'{a}.00 ± {b}.00' for a, b in pairs]
    rows.append([name, *cells])
  best = 0 if metric == ERROR else 1
  rows[best] = [f'**{cell}**' for cell in rows[best]]
  names = ('validation', 'test', 'fou', 'pix', 'uni-modal mean')
  assert table == [['weighting.name', *names], *rows]
  assert '`weighting.name=mgda` skipped 2 steps of a seed' in text
  assert 'over 2 seeds' in text and 'heatmap' not in text
  assert ('less is better' in text) == (metric == ERROR)


@pytest.mark.parametrize(
  ('metric', 'marked'), [('accuracy', (0, 1)), (ERROR, (1, 0))]
)
def test_a_grid_of_two_floats_has_a_heat_map(
  tmp_path, monkeypatch, metric, marked
):
  tried = [
    {'weighting.penalty': penalty, 'optimizer.learning_rate': rate}
    for penalty in (3.0, 1.0)
    for rate in (0.01, 0.1, 0.03)
  ]
  scores = [[[i / 10, i / 10, 0.02 * i, 0.04 * i]] for i in range(6)]
  drawn = {}
  heat_map = figures.heat_map

  def recorded(panels, measure, **arguments):
    drawn.update(panels=panels, measure=measure, **arguments)
    heat_map(panels, measure, **arguments)

  monkeypatch.setattr(figures, 'heat_map', recorded)
  write_sweep(tmp_path, tried, scores, metric)
  text = report.write(tmp_path).read_text()
  assert_pictures(tmp_path, text, 'heatmap.png')
  rates = ['0.01', '0.03', '0.1']
  assert drawn['rows'] == ('weighting.penalty', ['1', '3'])
  assert drawn['columns'] == ('optimizer.learning_rate', rates)
  assert drawn['marked'] == marked
  assert drawn['measure'] == measures.Measure.of(metric)
  fused, own = drawn['panels'].values()
  np.testing.assert_allclose(fused, [[0.3, 0.5, 0.4], [0.0, 0.2, 0.1]])
  np.testing.assert_allclose(own, [[0.09, 0.15, 0.12], [0.0, 0.06, 0.03]])
  # Draws make no grid.
  write_sweep(tmp_path, tried[:5], scores[:5], metric)
  assert 'heatmap' not in report.write(tmp_path).read_text()


# Studies.


@pytest.mark.parametrize('metric', ['accuracy', ERROR])
def test_a_study_counts_wins_and_losses(tmp_path, metric):
  quiet = np.random.default_rng(0).normal(scale=1e-3, size=(3, 6))
  tuning = [tuning_of(recipe, [0.5, 0.7]) for recipe in ('joint', 'mimo')]
  changes = {'metrics': [metric], 'subject': 'mimo', 'tuning': tuning}
  results = {}
  # Above joint training twice, level with it once.
  for i, ahead in enumerate((0.2, 0.0, 0.3)):
    place = 10 * (i + 1)
    scores = {'joint': np.full(6, 0.5), 'mimo': 0.5 + ahead + quiet[i]}
    rows = rows_of(
      {k: np.tile(v, (10, 1)).T for k, v in scores.items()}, metric
    )
    for row in rows:  # what was chosen reads the heads, and is better
      row[f'{metric}/heads'] = row[f'{metric}/fused'] + 0.125
    rows += stopped(rows)
    changed = (('steps', place),)
    setting = studies.Setting('views', place, 'handwritten:two', changed)
    workdir = write_results(tmp_path / str(place), rows, **changes)
    results[setting] = results_lib.read(workdir)
  # The same setting under another name counts once.
  again = next(iter(results))
  results[again._replace(family='rows')] = results[again]
  one = studies.Study('Made up', 'rows', tuple(results), 'Not run.')
  path = studies.write(one, results, tmp_path / 'report', 'a command')
  text = path.read_text()
  is_error = metric == ERROR
  *measures, wins, _, _, _, choices, costs = tables_of(text)
  assert len(measures) == 6  # chosen, stopped, fused, mean, missing, noise
  places = ['views, 10', 'views, 20', 'views, 30', 'rows, 10']
  assert measures[0][0] == ['recipe', *places]
  unit = 1 if is_error else 100
  chosen, early, fused = (
    float(one[1][1].split()[0].strip('*')) for one in measures[:3]
  )
  np.testing.assert_allclose(chosen, fused + 0.125 * unit, atol=1e-3 * unit)
  np.testing.assert_allclose(early, 0.25 * unit)
  winner = measures[0][1 if is_error else 2]
  assert winner[1].startswith('**') and winner[3].startswith('**')
  won = '0 / 1 / 2' if is_error else '2 / 1 / 0'
  assert wins == [
    [
      'recipe',
      'chosen',
      'stopped early',
      'fused',
      'uni-modal mean',
      'worst missing',
      'robustness',
    ],
    ['joint', won, '0 / 3 / 0', *([won] * 4)],
  ]
  unit = 1 if is_error else 100
  assert choices[2][1:4] == ['1', 'penalty 2', 'heads']
  assert choices[2][6:9] == ['3', 'penalty 2', 'fused']
  # Of time, of memory, and of all that was trained: (5 + 2) / 2.
  assert costs[1:] == [
    ['joint', '1.00', '1.00', '3.50'],
    ['mimo', '1.00', '2.00', '3.50'],
  ]
  assert ('less is better' in text) == is_error
  assert text.endswith('with jax 1.2.3, by `a command`.\n')
  assert_pictures(tmp_path / 'report', text, 'lines.png')


# Tables.


@pytest.mark.quick
def test_a_table_aligns_numbers_and_refuses_ragged_rows():
  head = ['a', 'numbers', 'both']
  text = tables.markdown(head, [['x', '-1.5', '1'], ['yy', '2e-05', 'n']])
  assert text.splitlines() == [
    '| a   | numbers | both |',
    '| --- | ------: | ---- |',
    '| x   |    -1.5 | 1    |',
    '| yy  |   2e-05 | n    |',
  ]
  with pytest.raises(ValueError, match='zip'):
    tables.markdown(['a', 'b'], [['1']])


@pytest.mark.quick
def test_tables_by_columns_and_by_rows_leave_gaps_empty():
  by_row = {'mgda': {'ms': '7.5'}, 'mean': {'ms': '9', 'to': 'it'}}
  by_column = {'ms': {'mgda': '7.5', 'mean': '9'}, 'to': {'mean': 'it'}}
  text = tables.of_rows('rule', by_row)
  assert text == tables.of_cells('rule', by_column)
  assert text.splitlines()[2:] == [
    '| mgda | 7.5 |     |',
    '| mean |   9 | it  |',
  ]


@pytest.mark.quick
def test_values_are_written_in_the_unit_of_their_metric():
  share, error = map(measures.Measure.of, ('weighted_f1', ERROR))
  assert (share.label, error.label) == ('weighted F1, %', 'mean absolute error')
  assert share.text([0.5, 0.7]) == '60.00 ± 10.00'
  # A mean between two digits is rounded in the unit in which it is written.
  hits = [784, 786, 785, 787, 789, 783, 790, 785, 787, 782]
  assert share.text(np.array(hits) / 800) == '98.22 ± 0.10'
  assert share.text([-0.1, -0.1], sign='+') == '-10.00 ± 0.00'
  assert error.text([0.61236], sign='+') == '+0.6124'  # of one seed
