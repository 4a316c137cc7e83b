"""Studies: several comparisons and one report."""

import csv
import pickle
import re

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import compare
from experiments.configs import synthetic
from experiments.core import commands
from experiments.core import refusals as refusing
from experiments.core import spaces
from experiments.methods import recipes
from experiments.study import __main__ as study
from experiments.study import estimates
from experiments.study import planning
from experiments.study import reporting
from experiments.study import side_by_side
from experiments.study import studies
from tests.experiments.report import made_up


def compared(config, workdir, manual_dir):
  """Writes made-up results, as of `compare.compare`."""
  del manual_dir
  modalities = sorted(config.model.encoders)
  score = int(config.data.config[-1]) / 10
  rows = [
    {'variant': recipe}
    | {f'accuracy/{name}': score for name in ('fused', *modalities)}
    for recipe in config.compare
  ]
  changes = {'config': config.to_dict(), 'modalities': modalities}
  workdir.parent.mkdir(parents=True, exist_ok=True)
  made_up.write_results(workdir, rows, **changes)


def test_a_study_runs_and_is_resumed(tmp_path, monkeypatch):
  monkeypatch.setattr(recipes, 'tuned', lambda: ('joint', 'mimo'))
  settings = tuple(
    reporting.Setting('imbalance', factor, f'synthetic:imbalance_{factor}')
    for factor in (2, 8)
  )
  one = studies.STUDIES['testbed']._replace(settings=settings)
  options = {'seeds': 1, 'candidates': 2, 'tuning_seeds': 0, 'smoke': True}
  planned = planning.plans(one, tmp_path, **options)
  five = estimates.Estimate(stepping=240.0, compiling=60.0)
  monkeypatch.setattr(estimates, 'estimate', lambda *_: five)
  said = planning.forecast(planned)
  assert '2 of 2 comparisons are left' in said and 'about 10 minutes' in said
  assert 'imbalance, 8: 5 min, of which 1 to compile' in said
  results = planning.run(one, planned, compared)
  # Two families that share a comparison.
  shared = settings[1]._replace(family='slowness')
  last = one._replace(settings=(shared, settings[1]))
  beside = planning.plans(last, tmp_path / 'beside' / 'it', **options)

  def by_itself(tasks, number, directory):
    # As for a separate process, which test_side_by_side.py covers.
    ((name, task),) = pickle.loads(pickle.dumps(tasks)).items()
    assert (name, number) == ('imbalance-8', 2)
    assert directory == tmp_path / 'beside'
    task()

  monkeypatch.setattr(side_by_side, 'run', by_itself)
  found = planning.run(last, beside, compared, at_a_time=2)
  for setting in last.settings:
    assert found[setting].scores == results[settings[1]].scores
  # All results exist.
  again = planning.run(one, planning.plans(one, tmp_path, **options), None)
  assert '0 of 2 comparisons are left' in planning.forecast(planned)
  assert list(results) == list(again) == list(settings)
  for other, message in (
    ({'seeds': 2}, 'num_seeds=1'),
    ({'smoke': 0}, 'steps='),
    ({'compared': ['joint', 'sum']}, r"the recipes \['joint', 'mimo'\]"),
  ):
    with pytest.raises(ValueError, match=f'results of {message}.* --studies'):
      planning.plans(one, tmp_path, **options | other)
  text = reporting.write(one, results, tmp_path / 'report', 'it').read_text()
  assert 'Not measured yet' not in text
  found = float(re.search(r'\| joint +\| (?:\*\*)?(-?[\d.]+)', text).group(1))
  np.testing.assert_allclose(found, 20 - 90.25, atol=0.02)
  with (tmp_path / 'results.csv').open() as file:
    rows = [row for row in csv.DictReader(file) if row['recipe'] == 'joint']
  assert {row['run'] for row in rows} == {each.name for each in settings}
  assert [
    float(row['value'])
    for row in rows
    if (row['run'], row['split'], row['metric'])
    == (settings[0].name, 'test', 'accuracy/fused')
  ] == [0.2]


def test_the_command_in_a_report_has_all_changed_options():
  with flagsaver.flagsaver():
    flags.FLAGS(
      ['study', '--seeds', '2', '--smoke', '--settings=two views 100']
    )
    found = commands.as_given(*study._NUMBERS.values(), study._SETTINGS)
  assert found == ['--seeds=2', '--smoke', "'--settings=two views 100'"]


def test_a_configuration_is_a_study_of_one_setting(tmp_path):
  rows = np.random.default_rng(0).normal(size=(80, 6)).astype('f4')
  label = np.arange(80) % 2
  path = tmp_path / 'mine.npz'
  np.savez(path, sound=rows + label[:, None], motion=rows[:, :3], label=label)
  one = studies.named(f'arrays:{path}')
  planned = planning.plans(
    one,
    tmp_path / planning.folder(one.title),
    seeds=1,
    candidates=2,
    tuning_seeds=0,
    smoke=True,
    compared=('joint', 'sum'),
  )
  results = planning.run(one, planned, compare.compare)
  written = reporting.write(one, results, tmp_path / 'report', 'a command')
  assert '## Against `joint`' in written.read_text()  # without mimo
  assert f'{path}' in written.read_text()
  with pytest.raises(ValueError, match=r"no study 'array'.*'views'.*'arrays'"):
    studies.named('array')


def test_settings_of_a_study_can_be_selected_by_name():
  real = studies.STUDIES['real']
  found = planning.some(real, ['icons', 'HTAD'])
  assert [setting.name for setting in found.settings] == ['icons', 'HTAD']
  assert planning.some(real, None).settings == list(real.settings)
  found = planning.some(studies.STUDIES['testbed'], ['slowness 4'])
  assert [setting.name for setting in found.settings] == ['slowness, 4']
  with pytest.raises(ValueError, match=r"\['htad'\].*'AV-MNIST', 'HTAD'"):
    planning.some(real, ['htad'])


def test_every_study_names_configurations_that_exist():
  for one in studies.STUDIES.values():
    assert len({setting.name for setting in one.settings}) == len(one.settings)
    for setting in one.settings:
      config = studies.config_of(setting, seeds=10, candidates=8)
      assert config.subject in config.compare
      assert set(config.compare) >= {'joint', 'mgda', 'ogm', 'umt', 'mla'}
      assert (config.num_seeds, config.tuning.num_candidates) == (10, 8)
      config = studies.config_of(setting, tuning_seeds=0)
      assert config.num_seeds == setting.seeds
      assert config.tuning.num_candidates == setting.candidates
      assert config.tuning.num_more == setting.candidates
      assert config.tuning.num_seeds == 0 < setting.tuning_seeds


def test_all_stands_for_the_recipes_of_a_fair_comparison_that_fit(monkeypatch):
  monkeypatch.setattr(recipes, 'tuned', lambda: ('joint', 'mimo', 'ogm'))
  config = synthetic.get_config('interaction,smoke')
  assert refusing.of_all(config).compare == config.compare
  config.compare = ('all',)
  found = refusing.of_all(config)
  assert found.compare == ('joint', 'mimo')
  assert set(found.left_out) == {'ogm'}
  said = planning.of_one(found)
  assert re.search(r'2 recipes.* about \d+\.\d minutes .* to compile', said)
  assert 'joint, mimo' in said
  assert 'without ogm: ValueError: ' in said


def test_choices_that_the_model_refuses_are_not_drawn(monkeypatch):
  monkeypatch.setattr(recipes, 'tuned', lambda: ('joint', 'lfm'))
  setting = reporting.Setting('one', None, 'synthetic:interaction')
  config = studies.config_of(setting, smoke=True)
  found = refusing.of_what_runs(config)
  assert found.compare == ('joint', 'lfm')
  assert list(found.left_out) == ['lfm with alignment js']
  space = found.recipes.lfm.space.method
  assert space.alignment.choices == ('contrastive',)
  assert space.schedule.choices == ('heuristic', 'learned')
  drawn = spaces.candidates(found, 'lfm', spaces.of_recipe(found, 'lfm'), 8)
  values = {one.values['method.alignment'] for one in drawn}
  assert len(drawn) == 8 and values == {'contrastive'}
  # The other choice is unchanged.
  assert config.recipes.lfm.space.method.alignment.choices[1:] == ('js',)


def test_recipes_that_refuse_a_model_are_left_out_and_checked_once(monkeypatch):
  monkeypatch.setattr(recipes, 'tuned', lambda: ('joint', 'ogm', 'mmcosine'))
  asked = []
  refusals = refusing._refusals
  monkeypatch.setattr(
    refusing, '_refusals', lambda *given: asked.append(1) or refusals(*given)
  )
  known = {}
  for name, left, times in (
    ('imbalance_2', ('joint', 'ogm', 'mmcosine'), 1),
    ('imbalance_8', ('joint', 'ogm', 'mmcosine'), 1),
    ('interaction', ('joint',), 2),
  ):
    setting = reporting.Setting('one', None, f'synthetic:{name}')
    config = studies.config_of(setting, smoke=True)
    found = refusing.of_what_runs(config, known=known)
    assert (found.compare, len(asked)) == (left, times)
  assert 'has no shares' in found.left_out['ogm']
  assert 'ConcatFusion' in found.left_out['mmcosine']
  config.compare = ('ogm',)
  with pytest.raises(ValueError, match=r'refuses every recipe.*has no shares'):
    refusing.of_what_runs(config)
