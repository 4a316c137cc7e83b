"""Reports of studies, from made-up results."""

import re

import numpy as np
import pytest

from experiments.evaluate import choosing
from experiments.report import results as results_lib
from experiments.study import reporting
from tests.experiments.report.made_up import assert_pictures
from tests.experiments.report.made_up import ERROR
from tests.experiments.report.made_up import rows_of
from tests.experiments.report.made_up import tables_of
from tests.experiments.report.made_up import write_results

PENALTY = {'weighting.penalty': 2.0}


def tuning_of(recipe, scores):
  """Makes the header of a recipe whose heads were best at the last step."""
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
  """Makes lower rows for runs that were stopped early."""
  scores = {'split': results_lib.STOPPED, 'step': 10}
  return [
    row | scores | {name: 0.25 for name in row if name.endswith('/fused')}
    for row in rows
  ]


@pytest.mark.parametrize('metric', ['accuracy', ERROR])
def test_a_study_counts_wins_and_losses(tmp_path, metric):
  quiet = np.random.default_rng(0).normal(scale=1e-3, size=(3, 6))
  tuning = [tuning_of(recipe, [0.5, 0.7]) for recipe in ('joint', 'mimo')]
  changes = {'metrics': [metric], 'subject': 'mimo', 'tuning': tuning}
  results = {}
  # Twice above joint training, once equal to it.
  for i, ahead in enumerate((0.2, 0.0, 0.3)):
    place = 10 * (i + 1)
    scores = {'joint': np.full(6, 0.5), 'mimo': 0.5 + ahead + quiet[i]}
    rows = rows_of(
      {k: np.tile(v, (10, 1)).T for k, v in scores.items()}, metric
    )
    for row in rows:  # the chosen read-out is the heads, which are better
      row[f'{metric}/heads'] = row[f'{metric}/fused'] + 0.125
    rows += stopped(rows)
    changed = (('steps', place),)
    on_axis = ('views', place)
    if metric == ERROR:  # by name alone, and so without a figure
      on_axis = (f'views, {place}', None)
    setting = reporting.Setting(*on_axis, 'handwritten:two', changed)
    more, settings = tuning, {}
    if place == 20:
      settings = {'steps': 10}
      more = [
        {**one, 'candidates': 2 * one['candidates'], 'seconds': 90.0}
        for one in tuning
      ]
    workdir = write_results(
      tmp_path / str(place), rows, settings, **(changes | {'tuning': more})
    )
    results[setting] = results_lib.read(workdir)
  # The same setting under two names counts once.
  again = list(results)[1]
  results[again._replace(family=again.family.replace('views', 'rows'))] = (
    results[again]
  )
  one = reporting.Study('Made up', 'rows', tuple(results), 'Not run.')
  path = reporting.write(one, results, tmp_path / 'report', 'a command')
  text = path.read_text()
  is_error = metric == ERROR
  *measures, wins, _, _, _, choices, costs = tables_of(text)
  assert len(measures) == 6  # chosen, stopped, fused, mean, missing, noise
  places = ['views, 10', 'views, 20', 'views, 30', 'rows, 20']
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
    ['recipe', 'chosen', 'stopped early', 'fused', 'uni-modal mean',
     'worst missing', 'robustness'],
    ['joint', won, '0 / 3 / 0', *([won] * 4)],
  ]  # fmt: skip
  assert choices[2][1:4] == ['2', 'penalty 2', 'heads']
  assert choices[2][6:9] == ['3', 'penalty 2', 'fused']
  # Costs in time, in memory and of all training, (5 + 2) / 2: the median of
  # three settings.
  assert costs[1:] == [
    ['joint', '1.00', '1.00', '3.50'],
    ['mimo', '1.00', '2.00', '3.50'],
  ]
  assert '*views, 10, views, 30*: For every recipe 1 cand' in text
  assert '*views, 20, rows, 20*: For every recipe 2 cand' in text
  stops = re.findall(r'the last of (\d+) steps for (\d) of 2 rec', text)
  assert stops == [('30', '0'), ('10', '2'), ('30', '0'), ('10', '2')]
  assert ('Lower is better' in text) == is_error
  assert text.endswith('with jax 1.2.3, by `a command`.\n')
  if metric == 'accuracy':
    assert_pictures(tmp_path / 'report', text, 'lines.png')
    return
  # A subject that was not run is tested against no recipe.
  others = {
    k: one._replace(header=one.header | {'subject': 'mgda'})
    for k, one in results.items()
  }
  text = reporting.write(one, others, tmp_path, 'a command').read_text()
  assert len(tables_of(text)) == 11 and 'Against' not in text
