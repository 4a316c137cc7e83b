"""Several comparisons and the report over them."""

import importlib
import json
import re

import numpy as np

from experiments import compare
from experiments import report
from experiments import study
from experiments.configs import handwritten
from experiments.core import runs


def made_up(path, accuracies, seconds, rehearsed):
  """Results of a comparison, chosen and not run: method -> [seeds]."""
  config = handwritten.get_config('two,smoke')
  config.subject = 'mimo'
  config.num_tuning_seeds = 1
  header = {
    'config': json.loads(json.dumps(config.to_dict())),
    'versions': {'jax': '1'}, 'commit': 'abc', 'device': 'cpu',
    'num_devices': 1, 'objectives': ['fused', 'fou', 'pix'],
    'seconds_per_step': seconds, 'seconds_of_rehearsals': rehearsed,
  }  # fmt: skip
  names = ('accuracy/fused', 'accuracy/fou', 'accuracy/pix', 'missing/fou')
  names = (*names, 'missing/pix', 'relative_robustness', 'noise/2')
  names = (*names, 'shapley/fou', 'shapley/pix', 'imbalance/shapley')
  rows = [
    {'method': method, 'seed': seed, 'split': 'test', 'skipped_steps': 0}
    | dict.fromkeys(names, float(value))
    for method, values in accuracies.items()
    for seed, value in enumerate(values)
  ]
  path.mkdir(parents=True)
  runs.write_lines(path / 'results.jsonl', [header, *rows])
  return report.read(path)


def test_a_rehearsal_counts_as_time_of_its_method(tmp_path):
  results = made_up(
    tmp_path / 'one',
    {'joint': [0.5, 0.6], 'umt': [0.5, 0.6]},
    {'joint': [0.1, 0.1], 'umt': [0.2, 0.2]},
    {'joint': [], 'umt': [3.0, 3.0]},
  )
  # 30 steps of 0.1 s: 6 s of rehearsal are two more of them each.
  np.testing.assert_allclose(
    report.relative_time(results, 'umt', 'joint'), 2 + 2
  )


def test_a_study_counts_wins_and_losses(tmp_path):
  seconds = {'joint': [1.0], 'mimo': [1.0]}
  quiet = np.random.default_rng(0).normal(scale=1e-3, size=(3, 6))
  places = {10: 0.2, 20: 0.0, 30: -0.2}  # above, level, below joint training
  results = {}
  for (place, ahead), noise in zip(places.items(), quiet, strict=True):
    setting = study.Setting(
      'views', place, 'handwritten:two', (('steps', place),)
    )
    accuracies = {'joint': np.full(6, 0.5), 'mimo': 0.5 + ahead + noise}
    results[setting] = made_up(
      tmp_path / str(place), accuracies, seconds, {'joint': [], 'mimo': []}
    )
  one = study.Study('Made up', 'rows', tuple(results), 'Not run.')
  for result in results.values():
    result.header['tuning'] = [
      {
        'method': 'mimo',
        'candidates': [
          {'values': {'weighting.penalty': 1.0}, 'validation': [0.5, 0.6]},
          {'values': {'weighting.penalty': 2.0}, 'validation': [0.5, 0.7]},
        ],
      },
      {'method': 'joint', 'candidates': [{'values': {}}]},
    ]
  text = study.write('made up', one, results, tmp_path / 'report').read_text()
  assert '1 / 1 / 1' in text
  assert re.search(r'\| mimo +\| penalty 2.0', text)
  assert '| views, 10' in text
  assert (tmp_path / 'report' / 'lines.png').read_bytes()[1:4] == b'PNG'


def test_a_study_runs_and_goes_on(tmp_path, monkeypatch):
  monkeypatch.setattr(study, '_METHODS', ('joint', 'mimo'))
  settings = tuple(
    study.Setting('imbalance', factor, f'synthetic:imbalance_{factor}')
    for factor in (2, 8)
  )
  one = study.Study('Testbed', 'imbalance', settings, 'Few steps.')
  results = study.run(one, tmp_path, seeds=1, tuning_seeds=0, smoke=True)
  monkeypatch.setattr(compare, 'compare', None)  # all is there
  again = study.run(one, tmp_path, seeds=1, tuning_seeds=0, smoke=True)
  assert list(results) == list(again) == list(settings)
  text = study.write('testbed', one, results, tmp_path / 'report').read_text()
  found = float(re.search(r'\| joint +\| (?:\*\*)?(-?[\d.]+)', text).group(1))
  accuracy = results[settings[0]].scores['joint']['accuracy/fused'][0]
  np.testing.assert_allclose(found, 100 * accuracy - 90.25, atol=0.02)


def test_every_study_names_configurations_that_exist():
  for one in study.STUDIES.values():
    assert len({setting.name for setting in one.settings}) == len(one.settings)
    for setting in one.settings:
      name, _, _ = setting.config.partition(':')
      assert importlib.import_module(f'experiments.configs.{name}')
      config = study._config(setting, 10, 3, smoke=False)
      assert config.subject in config.compare
      assert set(config.compare) >= {'joint', 'mgda', 'ogm', 'umt', 'mla'}
