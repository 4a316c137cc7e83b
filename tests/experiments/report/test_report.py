"""Reports of comparisons and sweeps, from made-up results."""

import numpy as np
import pytest

from experiments.report import figures
from experiments.report import measures
from experiments.report import report
from experiments.report import results as results_lib
from tests.experiments.report.made_up import assert_pictures
from tests.experiments.report.made_up import ERROR
from tests.experiments.report.made_up import rows_of
from tests.experiments.report.made_up import tables_of
from tests.experiments.report.made_up import write_results

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


def test_the_report_of_a_comparison_shows_its_measurements(tmp_path):
  rows = rows_of(COMPARISON)
  rows[3]['skipped_steps'] = 3
  seconds = {'joint': [1.0, 2.0, 4.0], 'sum': [1.5, 3.0, 4.0]}
  refusals = {'left_out': {'ogm': 'ValueError: no shares'}}
  write_results(tmp_path, rows, refusals, seconds_per_step=seconds)
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
  assert 'Lower is better' not in text
  assert '`sum` skipped up to 3 steps' in text and '`joint` skipped' not in text
  assert '- `joint`: weighting `joint()`\n' in text
  assert 'mimo(penalty' not in text  # a recipe that was not run
  assert '`ogm` is left out: ValueError: no shares\n' in text
  assert_pictures(tmp_path, text, 'accuracy.png', 'curves.png')
  assert report.tables(tmp_path) in text
  # With clean inputs only, and a subject that was not run.
  for row in rows:
    del row['relative_robustness']
  clean = {'evaluation': {'noise_levels': (0.0,)}}
  write_results(tmp_path, rows, clean, subject='mimo')
  summary, *others = tables_of(report.tables(tmp_path))
  assert 'robustness' not in summary[0] and len(others) == 3


@pytest.mark.quick
def test_a_regression_is_compared_by_its_error(tmp_path):
  """The smallest error is the best, and a decrease is a gain."""
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
    'Lower is better for mean absolute error.',
    'so that a gain is negative',
    '![Mean absolute error of each recipe](mean_absolute_error.png)',
  ):
    assert part in text
  assert_pictures(tmp_path, text, f'{ERROR}.png')


@pytest.mark.quick
def test_unreadable_results_are_refused(tmp_path):
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


def test_the_time_of_a_recipe_includes_its_rehearsals(tmp_path):
  write_results(
    tmp_path,
    rows_of(COMPARISON),
    seconds_per_step={'joint': [0.1, 0.1], 'sum': [0.2, 0.2]},
    seconds_of_rehearsals={'joint': [], 'sum': [3.0, 3.0]},
  )
  # In 30 steps of 0.1 s, 6 s of rehearsals add the time of two steps to each.
  time = results_lib.read(tmp_path).relative_time('sum')
  np.testing.assert_allclose(time, 2 + 2)


# Sweeps.


def write_sweep(workdir, tried, scores, metric='accuracy'):
  """Writes a sweep's directory from values and scores [variants, seeds, 4]."""
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
  assert '`weighting.name=mgda` skipped up to 2 steps per seed' in text
  assert 'over 2 seeds' in text and 'heatmap' not in text
  assert ('Lower is better' in text) == (metric == ERROR)


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
  # Random draws are no grid.
  write_sweep(tmp_path, tried[:5], scores[:5], metric)
  assert 'heatmap' not in report.write(tmp_path).read_text()
