"""Whole runs: what they write, and that they resume exactly."""

import csv
import json
import subprocess

import chex
import jax
import numpy as np
import pytest

from experiments import compare
from experiments import sweep
from experiments import train
from experiments.configs import av_mnist
from experiments.configs import crema_d
from experiments.core import configuration
from experiments.core import data
from experiments.core import runs
from experiments.report import results as results_lib
from tests import running
from tests.running import smoke

pytestmark = pytest.mark.usefixtures('reused_programs')
CONFIG = 'experiments/configs/handwritten.py'


def test_train_writes_the_documented_files(finished):
  workdir, scores = finished
  rows = runs.read_lines(workdir / 'metrics.jsonl')
  assert rows[0]['config'] == json.loads(json.dumps(smoke().to_dict()))
  assert rows[0]['versions']['jax'] == jax.__version__
  assert [(row['step'], row['split']) for row in rows[1:]] == [
    (10, 'train'), (10, 'validation'), (20, 'train'), (20, 'validation'),
    (30, 'train'), (30, 'validation'), (30, 'test'),
  ]  # fmt: skip
  assert {'missing/fou', 'shapley/pix', 'noise/2'} <= rows[-1].keys()
  losses = [row['losses']['fused'] for row in rows if 'losses' in row]
  assert losses[-1] < 0.5 * losses[0]
  assert scores['accuracy/fused'] > 0.5
  assert {k: rows[-1][k] for k in scores} == scores
  assert list((workdir / 'tensorboard').glob('events*'))
  with (workdir / 'results.csv').open() as file:
    tidy = {
      (one['split'], int(one['step']), one['metric']): float(one['value'])
      for one in csv.DictReader(file)
      if (one['run'], one['recipe'], one['seed']) == (workdir.name, 'mimo', '0')
    }
  for row in rows[1:]:
    for name, value in row.get('losses', {}).items():
      assert tidy.pop((row['split'], row['step'], f'losses/{name}')) == value
  assert tidy['test', 30, 'accuracy/fused'] == scores['accuracy/fused']


def test_header_has_the_commit_if_there_is_git(monkeypatch):
  monkeypatch.setattr(
    runs.subprocess,
    'run',
    lambda *_, **__: subprocess.CompletedProcess([], 0, stdout='abc123\n'),
  )
  monkeypatch.setattr(runs.shutil, 'which', lambda name: f'/bin/{name}')
  assert runs.header(smoke())['commit'] == 'abc123'
  monkeypatch.setattr(runs.shutil, 'which', lambda _: None)
  assert runs.header(smoke())['commit'] is None


def test_data_with_random_transforms_are_not_held_in_memory():
  config = crema_d.get_config('smoke')
  config.data.in_memory = True
  with pytest.raises(ValueError, match=r"in_memory.*\['visual'\]"):
    data.open_data(config, 0)


def test_batch_statistics_of_a_skipped_step_are_discarded():
  config = av_mnist.get_config('smoke')
  for encoder in config.model.encoders.values():
    encoder.num_blocks = 2  # compile sooner
  generator = np.random.default_rng(0)
  good = {
    'image': generator.uniform(size=(4, 28, 28, 1)).astype(np.float32),
    'audio': generator.uniform(size=(4, 112, 112, 1)).astype(np.float32),
    'label': np.arange(4),
  }
  experiment, state, _ = running.begun(config, batch=good)
  step = jax.jit(experiment.train_step)
  after, _ = step(state, good)
  moved = running.moved(after.model_state, state.model_state)
  assert all(jax.tree.leaves(moved))
  bad = good | {'image': np.full_like(good['image'], np.nan)}
  skipped, _ = step(after, bad)
  chex.assert_trees_all_equal(skipped.params, after.params)
  chex.assert_trees_all_equal(skipped.model_state, after.model_state)


def test_train_run_twice_does_nothing_the_second_time(finished):
  workdir, first = finished
  metrics = (workdir / 'metrics.jsonl').read_bytes()
  assert train.train(smoke(), workdir) == first
  assert (workdir / 'metrics.jsonl').read_bytes() == metrics


def test_train_interrupted_between_checkpoints_ends_as_if_undisturbed(
  tmp_path,
):
  config = smoke(data={'noise': 0.1})
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  train.train(config, whole)
  # The first batch makes the initial state. It stops at step 1, before any
  # checkpoint, at 11, soon after one, and at 17, after resuming from 10.
  for place in (1, 11, 7):
    with running.ending_at(place), pytest.raises(KeyboardInterrupt):
      train.train(config, stopped)
  train.train(config, stopped)
  running.assert_same_run(stopped, whole, config)


def test_train_killed_again_and_again_ends_as_if_undisturbed(tmp_path):
  # It saves most of the time, so that it is killed while it writes.
  changes = {'steps': 16, 'checkpoint_every_steps': 2}
  arguments = [f'--config={CONFIG}:two,smoke'] + [
    f'--config.{key}={value}' for key, value in changes.items()
  ]
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  finished = running.run('train', *arguments, f'--workdir={whole}')
  assert finished.returncode == 0, finished.stderr
  assert 'accuracy/fused' in finished.stdout
  for saved in (0, 5):

    def ready(saved=saved):
      steps = [
        int(path.name.split('.')[0])
        for path in (killed / 'checkpoints').glob('[0-9]*')
      ]
      return max(steps, default=-1) >= saved

    running.kill_when('train', [*arguments, f'--workdir={killed}'], ready)
    assert not list((killed / 'checkpoints').glob('16'))
  train.train(smoke(**changes), killed)
  running.assert_same_run(killed, whole, smoke(**changes))


COMPARE = [
  f'--config={CONFIG}:two,smoke',
  '--config.checkpoint_every_steps=10',
  "--config.compare=('joint', 'mimo_3')",
]


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  """The directory of an undisturbed comparison."""
  whole = tmp_path_factory.mktemp('compared') / 'whole'
  ended = running.run('compare', *COMPARE, f'--workdir={whole}')
  assert ended.returncode == 0, ended.stderr
  assert '| mimo_3 |' in ended.stdout
  return whole


def test_compare_killed_ends_as_if_undisturbed(compared, tmp_path):
  whole, killed = compared, tmp_path / 'killed'
  arguments = [*COMPARE, f'--workdir={killed}']
  ready = (killed / 'checkpoints' / '10').exists
  running.kill_when('compare', arguments, ready)
  resumed = running.run('compare', *arguments)
  assert resumed.returncode == 0, resumed.stderr
  ours, theirs = results_lib.read(killed), results_lib.read(whole)
  chex.assert_trees_all_equal(ours.scores, theirs.scores)
  with np.load(killed / 'curves.npz') as a, np.load(whole / 'curves.npz') as b:
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
      assert np.all(a[name] != 0)  # no step is missing
  # One time for each method and call, including the call that was killed.
  assert all(
    len(values) == 3 for values in ours.header['seconds_per_step'].values()
  )


@pytest.mark.parametrize('kind', ['compare', 'sweep'])
def test_a_regression_is_selected_by_its_error(tmp_path, kind):
  config = smoke(num_seeds=1, steps=20, loss='absolute_error_losses')
  # Low errors are good. With a rate of 0 nothing is learned.
  grid = {'optimizer': {'learning_rate': (0.0, 0.05)}}
  drawn = {'optimizer': {'learning_rate': {'low': 0.05, 'high': 0.0501}}}
  with config.unlocked():
    config.model.num_classes = 1
    config.evaluation.metrics = ('mean_absolute_error',)
    config.compare = ('joint', 'mimo')
    config.optimizer.learning_rate = 0.0
    config.tuning.update({'num_seeds': 1, 'num_candidates': 2, 'rounds': 0})
    config.tuning.space = drawn
    config.recipes.mimo.space = {}
    if kind == 'sweep':
      config.sweep.grid = grid
  run = compare.compare if kind == 'compare' else sweep.sweep
  text = run(config, tmp_path).read_text()
  assert '**0.05' in text or 'learning_rate 0.05' in text
  found = results_lib.read(tmp_path)
  name = 'mean_absolute_error/fused'
  if kind == 'compare':
    (_, tuned) = found.header['tuning']
    slow, fast = (
      one['validation']['fused'][0][-1] for one in tuned['candidates']
    )
    assert found.scores['mimo'][name][0] < 3
    rows = runs.read_lines(tmp_path / 'results.jsonl')
    assert rows[-1]['values']['optimizer.learning_rate'] >= 0.05
  else:
    slow, fast = (one[name][0] for one in found.scores.values())
  assert fast < slow - 1


def test_the_first_run_of_compare_is_the_run_of_train(compared, tmp_path):
  together = results_lib.read(compared)
  alone = train.train(configuration.with_recipe(smoke(), 'mimo_3'), tmp_path)
  for name, share in alone.items():
    # The same up to rounding: at most one prediction in 800 differs.
    assert abs(together.scores['mimo_3'][name][0] - share) <= 1.01 / 800


def test_curves_are_those_of_the_outputs_whatever_losses_a_method_has(logged):
  # In alphabetical order, LFM's own loss precedes those of the outputs.
  (row,) = running.train_rows(logged / 'alone').values()
  outputs = ['fused', 'fou', 'pix']
  assert sorted(row['losses'])[: len(outputs)] != sorted(outputs)
  with np.load(logged / 'compare' / 'curves.npz') as curves:
    for kind in ('losses', 'weights'):
      np.testing.assert_allclose(
        curves[f'{kind}/aligned'][0, 9],
        [row[kind][name] for name in outputs],
        rtol=1e-3,
      )


def test_statistics_of_a_subset_are_those_of_its_own_rows():
  config = smoke(data={'train_fraction': 0.1, 'batch_size': 100})
  batch = running.batches_of(config, 5, 1)[0]  # one epoch: all 100 rows
  np.testing.assert_allclose(np.mean(batch['fou'], 0), 0, atol=1e-5)
  np.testing.assert_allclose(np.std(batch['fou'], 0), 1, atol=1e-4)
  other = running.batches_of(config, 6, 1)[0]
  assert set(batch['row'].tolist()) != set(other['row'].tolist())
