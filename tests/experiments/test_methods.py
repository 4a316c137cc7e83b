"""The interface of methods: nothing knows their names, all of them fit."""

import importlib
import itertools
import json
import pathlib
import re
import sys
import types

import numpy as np
import pytest
from scipy import stats

from experiments import compare
from experiments import methods
from experiments import report
from experiments import study
from experiments import sweep
from experiments import train
from experiments.benchmark import device
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import data
from experiments.core import rehearsals
from experiments.core import runs
from experiments.core import training
from experiments.evaluation import statistics
from experiments.methods import base
from experiments.methods import recipes
from tests import running

ROOT = pathlib.Path(__file__).parent.parent.parent
RUNNERS = ('train', 'compare', 'training', 'rehearsals', 'evaluation', 'data')


def smoke(**changes):
  """A configuration of a few steps, with some keys changed."""
  config = handwritten.get_config('two,smoke')
  config.update(changes)
  return config


# One interface.


def test_runners_contain_no_name_of_a_method():
  names = set(recipes.recipes()) - {'sum'}  # sum is also a function
  for runner in RUNNERS:
    source = (ROOT / 'experiments' / f'{runner}.py').read_text()
    code = re.sub(r'""".*?"""|#[^\n]*', '', source, flags=re.DOTALL)
    found = names & set(re.findall(r'\w+', code))
    assert not found, (runner, found)


def test_no_grid_has_more_than_four_candidates():
  config = smoke()
  for name in config.recipes:
    candidates = configuration.candidates(config, name)
    assert 1 <= len(candidates) <= 4, name
    for values in candidates:
      changed = configuration.with_values(
        configuration.with_recipe(config, name), values
      )
      for path, value in values.items():
        one = changed
        for key in path.split('.'):
          one = one[key]
        assert one == value


def test_the_eleventh_method_is_one_file_and_one_import_line(
  tmp_path, monkeypatch
):
  # The file and the line as README shows them.
  readme = (ROOT / 'README.md').read_text()
  section = readme[readme.index('### A method of your own') :]
  file, line = re.findall(r'```python\n(.*?)```', section, re.DOTALL)[:2]
  name = re.fullmatch(
    r'from experiments\.methods import (\w+) as \1\n', line
  ).group(1)
  module = types.ModuleType(f'experiments.methods.{name}')
  exec(compile(file, name, 'exec'), module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  monkeypatch.setattr(methods, name, module, raising=False)
  config = smoke(compare=('joint', name), num_tuning_seeds=1)
  compare.compare(config, tmp_path)
  rows = runs.read_lines(tmp_path / 'results.jsonl')
  tuned = {one['method']: one['candidates'] for one in rows[0]['tuning']}
  assert len(tuned[name]) == np.prod([len(v) for v in module.GRID.values()])
  scores = {row['method']: row['accuracy/fused'] for row in rows[1:]}
  assert scores[name] > 0.5


def test_an_unknown_option_names_the_known_ones():
  config = smoke()
  with config.unlocked():
    config.method = {'name': 'ogm', 'alhpa': 0.3}
  with pytest.raises(ValueError, match=r"\['alhpa'\].*'alpha'"):
    training.make(config, 15)
  config.method = {'name': 'omg'}
  with pytest.raises(ValueError, match="no 'omg'"):
    training.make(config, 15)


@pytest.mark.parametrize(
  'name', ['agm', 'cml', 'mla', 'mmcosine', 'ogm', 'ogm_ge', 'pmr']
)
def test_methods_for_classes_refuse_scores(name):
  config = configuration.with_recipe(smoke(loss='absolute_error_losses'), name)
  with pytest.raises(ValueError, match=f'{name}.* classes'):
    training.make(config, 15)


def test_schedules_count_steps_whatever_the_number_of_updates():
  config = smoke()
  with config.unlocked():
    config.optimizer = {
      'name': 'sgd',
      'learning_rate': {
        'name': 'exponential_decay',
        'init_value': 1.0,
        'transition_steps': 2,
        'decay_rate': 0.5,
        'staircase': True,
      },
    }
  optimizer = training._make_optimizer(config, updates_per_step=3)
  state = optimizer.init(np.float32(0))
  moved = []
  for _ in range(9):
    update, state = optimizer.update(np.float32(1), state)
    moved.append(float(update))
  assert moved == [-1.0] * 6 + [-0.5] * 3


# Rehearsals.


def counting(every_epochs, passes):
  """An experiment whose rehearsal collects the rows that it saw."""
  experiment = training.make(smoke(), 15)

  def step(state, scratch, batch):
    del state
    return [*scratch, np.asarray(batch['row'])]

  rehearsal = base.Rehearsal(
    every_epochs=every_epochs,
    begin=lambda *_: [],
    passes=tuple(base.Pass(split, n, step) for split, n in passes),
    end=lambda _, scratch: scratch,
  )
  experiment = experiment._replace(rehearsal=rehearsal)
  return rehearsals.Rehearsals(
    experiment, lambda function: function, lambda batches: batches[0]
  )


def test_a_rehearsal_sees_the_batches_to_come_and_puts_them_back():
  config = smoke()
  inputs = data.open_data(config, 4)
  upcoming = [next(inputs.train)['row'] for _ in range(9)]
  inputs.train.set_state(inputs.train.get_state() | {'next_batch': 7})
  one = counting(1.0, [('train', 3 / 15), ('validation', 1.0)])
  rows, seconds = one.run(None, [inputs], 4)
  for seen, expected in zip(rows[:3], upcoming[4:7], strict=True):
    np.testing.assert_array_equal(seen, expected)
  validation = [batch['row'] for batch in inputs.evaluation('validation')]
  np.testing.assert_array_equal(
    np.concatenate(rows[3:]), np.concatenate(validation)
  )
  np.testing.assert_array_equal(next(inputs.train)['row'], upcoming[7])
  assert seconds >= 0


def test_rehearsals_are_due_at_the_start_of_every_epoch_or_once():
  due = [step for step in range(40) if counting(1.0, []).is_due(step)]
  assert due == [0, 15, 30]
  assert [s for s in range(40) if counting(None, []).is_due(s)] == [0]
  half = counting(0.5, [])
  assert [s for s in range(20) if half.is_due(s)] == [0, 8, 16]


def test_a_run_with_rehearsals_goes_on_bit_for_bit(tmp_path, monkeypatch):
  config = configuration.with_recipe(smoke(steps=20), 'pmr')
  train.train(config, tmp_path / 'whole')
  opened = data.open_data

  def open_data(config, seed, manual_dir):
    inputs = opened(config, seed, manual_dir)
    # One batch for the first state, two for the first rehearsal, 15 steps, and
    # one of the second rehearsal.
    return inputs._replace(train=running.Interrupted(inputs.train, 20))

  with monkeypatch.context() as patch:
    patch.setattr(data, 'open_data', open_data)
    with pytest.raises(KeyboardInterrupt):
      train.train(config, tmp_path / 'stopped')
  train.train(config, tmp_path / 'stopped')
  running.assert_same_run(tmp_path / 'stopped', tmp_path / 'whole', config)


# Comparisons.


def test_tuning_chooses_on_validation_and_goes_on(tmp_path, monkeypatch):
  config = smoke(compare=('joint', 'mimo'), num_tuning_seeds=1, steps=20)
  with config.unlocked():
    # A rate of 0 learns nothing.
    config.recipes.mimo.grid = {'optimizer': {'learning_rate': (0.0, 0.1)}}
  trained = compare._train

  def interrupted(methods, config, inputs, directory, *rest):
    if 'tuning' not in directory.parts:
      raise KeyboardInterrupt
    return trained(methods, config, inputs, directory, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(compare, '_train', interrupted)
    with pytest.raises(KeyboardInterrupt):
      compare.compare(config, tmp_path)
  tuned = (tmp_path / 'tuning' / 'mimo.jsonl').read_bytes()
  assert not (tmp_path / 'tuning' / 'mimo').exists()
  compare.compare(config, tmp_path)
  assert (tmp_path / 'tuning' / 'mimo.jsonl').read_bytes() == tuned
  header, *rows = runs.read_lines(tmp_path / 'results.jsonl')
  joint, mimo = header['tuning']
  assert len(joint['candidates']) == 1
  slow, fast = mimo['candidates']
  assert slow['values'] == {'optimizer.learning_rate': 0.0}
  assert slow['validation'][0] < fast['validation'][0]
  assert min(row['accuracy/fused'] for row in rows) > 0.4
  text = (tmp_path / 'report.md').read_text()
  assert '**learning_rate=0.1' in text
  assert 'learning_rate=0.0 (' in text


def test_more_seeds_to_tune_on_than_there_are_is_refused(tmp_path):
  with pytest.raises(ValueError, match='num_tuning_seeds=3 is more than'):
    compare.compare(smoke(num_tuning_seeds=3), tmp_path)


def test_an_error_is_refused_as_what_runs_are_chosen_by(tmp_path):
  wrong = smoke()
  wrong.evaluation.metrics = ('mean_absolute_error', 'correlation')
  with pytest.raises(ValueError, match=r"begins with 'mean_absolute_error'"):
    compare.compare(wrong, tmp_path)
  with pytest.raises(ValueError, match=r"begins with 'mean_absolute_error'"):
    sweep.sweep(wrong, tmp_path)


def test_of_equal_candidates_the_first_and_never_nan():
  candidates = [
    {'values': {'c': 0}, 'validation': [float('nan'), 0.9]},
    {'values': {'c': 1}, 'validation': [0.5, 0.7]},
    {'values': {'c': 2}, 'validation': [0.7, 0.5]},
  ]
  assert runs.best_candidate(candidates)['values'] == {'c': 1}


# Statistics.


def test_holm_is_the_closed_test_by_bonferroni():
  generator = np.random.default_rng(0)
  for _ in range(20):
    p_values = dict(zip('abcd', generator.uniform(0, 0.1, 4), strict=True))
    # Closed testing: the largest Bonferroni p of all sets with that test.
    expected = {
      name: max(
        min(1, len(some) * min(p_values[k] for k in some))
        for size in range(1, 5)
        for some in itertools.combinations('abcd', size)
        if name in some
      )
      for name in 'abcd'
    }
    found = statistics.holm(p_values)
    np.testing.assert_allclose(
      list(found.values()), list(expected.values()), rtol=1e-12
    )
  assert statistics.holm({'a': 0.9, 'b': 0.8}) == {'a': 1.0, 'b': 1.0}


def test_difference_is_the_paired_t_test():
  generator = np.random.default_rng(1)
  ours, theirs = generator.normal(size=(2, 9))
  found = statistics.difference(ours, theirs)
  expected = stats.ttest_rel(ours, theirs)
  np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-10)
  np.testing.assert_allclose(
    found.estimate.mean / found.estimate.error, expected.statistic, rtol=1e-10
  )
  assert statistics.difference(ours, ours).p_value == 1
  assert statistics.difference(ours[:1], theirs[:1]).p_value != 0


# Studies.


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


# Costs.


def test_subroutine_is_what_a_step_has_more_within_a_round():
  config = subroutine.make_config(16)
  for encoder in config.model.encoders.values():
    with config.unlocked():
      encoder.update({'name': 'LeNet', 'base_width': 2, 'num_blocks': 1})
      del encoder['width']
      del encoder['dtype']
  costs = subroutine.measure(
    {
      name: configuration.with_recipe(config, name)
      for name in ('joint', 'mimo', 'pmr')
    },
    subroutine.made_up_batch(
      config, 4, dict.fromkeys(config.model.encoders, (8, 8, 3))
    ),
    rounds=2,
  )
  assert costs['joint'].added == costs['joint'].error == 0
  assert costs['mimo'].rehearsal == 0 < costs['pmr'].rehearsal
  assert all(cost.megabytes > 0 for cost in costs.values())
  # MIMO needs the operations of joint training, and those of K numbers and of
  # taking the heads' gradients to the encoders.
  more = costs['mimo'].gigaflops / costs['joint'].gigaflops - 1
  assert 0 <= more < 0.03
  assert costs['joint'].gigaflops < costs['pmr'].gigaflops
  difference = costs['mimo'].step.rounds - costs['joint'].step.rounds
  np.testing.assert_allclose(costs['mimo'].added, np.median(difference))


def test_subroutine_is_compared_with_the_median_of_the_costly_rivals():
  def cost(added, rehearsal=0.0):
    times = timing.Times(np.array([1.0 + added]), 1.0 + added)
    return subroutine.Cost(times, added, 0.001, rehearsal, 5.0, 0.2)

  costs = {
    'joint': cost(0.0),
    'mimo': cost(0.002),
    'mgda': cost(0.1),
    'umt': cost(0.02, rehearsal=0.04),
    'mla': cost(0.01),
    'ogm': cost(9.0),  # needs no more than the one gradient
  }
  text = subroutine.summary(costs)
  assert 'adds 2.00 +- 1.00 ms' in text
  assert '60.00 ms: 30 times as much' in text
  assert text.endswith('at two standard errors above, 15 times')
  assert '1.06' in subroutine.table(costs).splitlines()[4]


def test_device_benchmark_changes_what_it_says():
  configs = device.configs(['mgda'], 'bfloat16', 8)
  joint, mgda = configs['joint'], configs['mgda']
  assert joint.model.detach_heads
  assert not mgda.model.detach_heads
  assert mgda.weighting.to_dict() == {'name': 'mgda'}
  for encoder in mgda.model.encoders.values():
    assert (encoder.dtype, encoder.width) == ('bfloat16', 8)

  def cost(seconds):
    times = timing.Times(np.array([seconds, seconds]), seconds)
    return subroutine.Cost(times, 0.0, 0.0, 0.0, 12.3, 0.2)

  table = device.steps_table({'joint': cost(0.5), 'mgda': cost(0.75)})
  assert table.splitlines()[2:] == [
    '| joint | 2.00 | 1.00 | 12 |',
    '| mgda | 1.33 | 1.50 | 12 |',
  ]
  rows = device.bandwidth(1000, 'bfloat16', 2).splitlines()[2:]
  assert [row.split(' | ')[0] for row in rows] == ['| 2', '| 3', '| 7']
