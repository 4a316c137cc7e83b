"""The runners: one step for all, resumable to the bit, clear about mistakes."""

import json
import os
import re
import subprocess

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags

from experiments import compare
from experiments import sweep
from experiments import train
from experiments.configs import av_mnist
from experiments.configs import crema_d
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import data
from experiments.core import program
from experiments.core import runs
from experiments.core import training
from experiments.reporting import results as results_lib
from tests import running

CONFIG = 'experiments/configs/handwritten.py'


def smoke(**changes):
  """A configuration of a few steps, with some keys changed."""
  config = handwritten.get_config('two,smoke')
  config.update(changes)
  return config


# The training step.


def test_step_is_the_hand_made_one():
  config = smoke(optimizer={'learning_rate': 0.1, 'momentum': 0.0})
  config.weighting.penalty = 2.0
  experiment = training.make(config, 15)
  batch = running.batches_of(config, 3, 1)[0]
  state = experiment.init(jax.random.key(7), batch)

  def objective(params):
    logits = experiment.model.apply({'params': params}, batch)
    losses = {
      name: -jnp.mean(
        jnp.take_along_axis(
          jax.nn.log_softmax(value), batch['label'][:, None], 1
        )
      )
      for name, value in logits.items()
    }
    modality = jnp.stack([losses['fou'], losses['pix']])
    temperature = config.weighting.temperature
    smooth = temperature * jax.nn.logsumexp(modality / temperature)
    return losses['fused'] + 2.0 * smooth

  expected = jax.tree.map(
    lambda p, g: p - 0.1 * g, state.params, jax.grad(objective)(state.params)
  )
  after, metrics = experiment.train_step(state, batch)
  chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
  assert int(after.step) == 1
  assert metrics['weights']['fused'] == 1
  modality_weights = metrics['weights']['fou'] + metrics['weights']['pix']
  np.testing.assert_allclose(modality_weights, 2.0, rtol=1e-6)


def test_one_compilation_however_many_steps():
  config = smoke()
  experiment = training.make(config, 15)
  batches = running.batches_of(config, 0, 5)
  state = jax.jit(experiment.init)(jax.random.key(0), batches[0])
  step = jax.jit(chex.assert_max_traces(experiment.train_step, n=1))
  for batch in batches:
    state, _ = step(state, batch)
  assert int(state.step) == 5


@pytest.mark.parametrize('method', ['joint', 'sum', 'mgda', 'mimo_3'])
def test_seeds_under_vmap_are_the_runs_one_by_one(method):
  config = configuration.with_recipe(smoke(), method)
  experiment = training.make(config, 15)
  seeds = [2, 9]
  data_of = {seed: running.batches_of(config, seed, 4) for seed in seeds}
  alone = []
  for seed in seeds:
    state = experiment.init(jax.random.key(seed), data_of[seed][0])
    for batch in data_of[seed]:
      state, _ = jax.jit(experiment.train_step)(state, batch)
    alone.append(state.params)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  stacked = program.stack([program.stack(data_of[seed]) for seed in seeds])
  first = jax.tree.map(lambda leaf: leaf[:, 0], stacked)
  states = jax.vmap(experiment.init)(keys, first)
  states, metrics = jax.jit(
    jax.vmap(lambda s, b: jax.lax.scan(experiment.train_step, s, b))
  )(states, stacked)
  for i in range(len(seeds)):
    together = jax.tree.map(lambda leaf, i=i: leaf[i], states.params)
    chex.assert_trees_all_close(together, alone[i], rtol=2e-4, atol=2e-5)
  assert metrics['losses']['fused'].shape == (2, 4)


def test_joint_training_leaves_encoders_and_fusion_as_fused_only_does():
  joint = configuration.with_recipe(smoke(), 'joint')
  fused_only = smoke()
  with fused_only.unlocked():
    fused_only.weighting = {'name': 'fused_only'}
  results = []
  for config in (joint, fused_only):
    experiment = training.make(config, 15)
    batches = running.batches_of(config, 1, 6)
    state = experiment.init(jax.random.key(1), batches[0])
    start = state.params
    for batch in batches:
      state, _ = jax.jit(experiment.train_step)(state, batch)
    results.append(state.params)
  for part in start:
    moved = not np.allclose(
      jax.tree.leaves(results[0][part])[-1], jax.tree.leaves(start[part])[-1]
    )
    assert moved, part
    if not part.startswith('heads'):
      chex.assert_trees_all_close(
        results[0][part], results[1][part], rtol=1e-5, atol=1e-7
      )


def test_a_non_finite_batch_changes_nothing_but_the_counters():
  config = smoke()
  experiment = training.make(config, 15)
  good, _ = running.batches_of(config, 0, 2)
  state = experiment.init(jax.random.key(0), good)
  state, _ = experiment.train_step(state, good)
  bad = good | {'pix': np.full_like(good['pix'], np.nan)}
  after, metrics = experiment.train_step(state, bad)
  chex.assert_trees_all_equal(after.params, state.params)
  assert np.isnan(metrics['losses']['fused'])
  assert int(optax.tree.get(after.opt_state, 'notfinite_count')) == 1
  np.testing.assert_array_equal(
    optax.tree.get(after.opt_state, 'weights'),
    optax.tree.get(state.opt_state, 'weights'),
  )


# Whole runs.


def test_train_writes_what_it_says(tmp_path):
  config = smoke()
  scores = train.train(config, tmp_path)
  rows = runs.read_lines(tmp_path / 'metrics.jsonl')
  assert rows[0]['config'] == json.loads(json.dumps(config.to_dict()))
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
  assert list((tmp_path / 'tensorboard').glob('events*'))


def test_header_says_the_commit_where_there_is_git(monkeypatch):
  monkeypatch.setattr(
    runs.subprocess,
    'run',
    lambda *_, **__: subprocess.CompletedProcess([], 0, stdout='abc123\n'),
  )
  monkeypatch.setattr(runs.shutil, 'which', lambda name: f'/bin/{name}')
  assert runs.header(smoke())['commit'] == 'abc123'
  monkeypatch.setattr(runs.shutil, 'which', lambda _: None)
  assert runs.header(smoke())['commit'] is None


def test_a_trained_model_is_probed_by_the_same_command(tmp_path):
  arguments = [f'--config={CONFIG}:two,smoke', f'--workdir={tmp_path}/run']
  untrained = running.run('probe', *arguments)
  assert untrained.returncode != 0
  assert 'Train first' in untrained.stderr
  scores = train.train(smoke(), tmp_path / 'run')
  result = running.run('probe', *arguments)
  assert result.returncode == 0, result.stderr
  probed = dict(re.findall(r'probe/(\w+) +([\d.]+)', result.stdout))
  assert set(probed) == {'fou', 'pix', 'fused'}
  # A probe that is solved to its optimum beats heads after 30 steps.
  for name, value in probed.items():
    assert scores[f'accuracy/{name}'] < float(value) < 1


def test_what_is_drawn_anew_is_not_held_in_memory():
  config = crema_d.get_config('smoke')
  config.data.in_memory = True
  with pytest.raises(ValueError, match=r"in_memory.*\['visual'\]"):
    data.open_data(config, 0)


def test_batch_statistics_of_a_skipped_step_are_forgotten():
  config = av_mnist.get_config('smoke')
  experiment = training.make(config, 15)
  generator = np.random.default_rng(0)
  good = {
    'image': generator.uniform(size=(4, 28, 28, 1)).astype(np.float32),
    'audio': generator.uniform(size=(4, 112, 112, 1)).astype(np.float32),
    'label': np.arange(4),
  }
  state = jax.jit(experiment.init)(jax.random.key(0), good)
  step = jax.jit(experiment.train_step)
  after, _ = step(state, good)
  moved = jax.tree.map(np.array_equal, after.model_state, state.model_state)
  assert not any(jax.tree.leaves(moved))
  bad = good | {'image': np.full_like(good['image'], np.nan)}
  skipped, _ = step(after, bad)
  chex.assert_trees_all_equal(skipped.params, after.params)
  chex.assert_trees_all_equal(skipped.model_state, after.model_state)


def test_train_run_twice_does_nothing_the_second_time(tmp_path):
  first = train.train(smoke(), tmp_path)
  metrics = (tmp_path / 'metrics.jsonl').read_bytes()
  assert train.train(smoke(), tmp_path) == first
  assert (tmp_path / 'metrics.jsonl').read_bytes() == metrics


def test_train_interrupted_between_checkpoints_ends_as_if_undisturbed(
  tmp_path, monkeypatch
):
  config = smoke(data={'noise': 0.1})
  train.train(config, tmp_path / 'whole')
  opened = data.open_data

  # The first batch makes the initial state: stops at steps 1, 11, 17.
  for place in (1, 11, 17):
    workdir = tmp_path / f'stopped{place}'

    def open_data(config, seed, manual_dir, place=place):
      inputs = opened(config, seed, manual_dir)
      return inputs._replace(train=running.Interrupted(inputs.train, place))

    with monkeypatch.context() as patch:
      patch.setattr(data, 'open_data', open_data)
      with pytest.raises(KeyboardInterrupt):
        train.train(config, workdir)
    train.train(config, workdir)
    running.assert_same_run(workdir, tmp_path / 'whole', config)


def test_train_killed_again_and_again_ends_as_if_undisturbed(tmp_path):
  # Saves most of the time, so that it is killed while it writes.
  changes = {'steps': 60, 'checkpoint_every_steps': 2}
  arguments = [f'--config={CONFIG}:two,smoke'] + [
    f'--config.{key}={value}' for key, value in changes.items()
  ]
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  finished = running.run('train', *arguments, f'--workdir={whole}')
  assert finished.returncode == 0, finished.stderr
  assert 'accuracy/fused' in finished.stdout
  for saved in (0, 9, 30):

    def ready(saved=saved):
      steps = [
        int(path.name.split('.')[0])
        for path in (killed / 'checkpoints').glob('[0-9]*')
      ]
      return max(steps, default=-1) >= saved

    running.kill_when('train', [*arguments, f'--workdir={killed}'], ready)
    assert not list((killed / 'checkpoints').glob('60'))
  resumed = running.run('train', *arguments, f'--workdir={killed}')
  assert resumed.returncode == 0, resumed.stderr
  running.assert_same_run(killed, whole, smoke(**changes))


def test_compare_killed_ends_as_if_undisturbed(tmp_path):
  changes = {'checkpoint_every_steps': 10, 'compare': ('joint', 'mimo_3')}
  arguments = [f'--config={CONFIG}:two,smoke'] + [
    f'--config.{key}={value}' for key, value in changes.items()
  ]
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  finished = running.run('compare', *arguments, f'--workdir={whole}')
  assert finished.returncode == 0, finished.stderr
  assert '| mimo_3 |' in finished.stdout
  running.kill_when(
    'compare',
    [*arguments, f'--workdir={killed}'],
    (killed / 'checkpoints' / '10').exists,
  )
  resumed = running.run('compare', *arguments, f'--workdir={killed}')
  assert resumed.returncode == 0, resumed.stderr
  ours, theirs = results_lib.read(killed), results_lib.read(whole)
  chex.assert_trees_all_equal(ours.scores, theirs.scores)
  with np.load(killed / 'curves.npz') as a, np.load(whole / 'curves.npz') as b:
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
      assert np.all(a[name] != 0)  # no step is missing
  # One time a method and call: the killed run's first call is in there.
  assert all(
    len(values) == 3 for values in ours.header['seconds_per_step'].values()
  )


@pytest.mark.parametrize('kind', ['compare', 'sweep'])
def test_a_regression_goes_by_its_error(tmp_path, kind):
  config = smoke(num_seeds=1, steps=20, loss='absolute_error_losses')
  # Errors are low if good. A rate of 0 learns nothing.
  grid = {'optimizer': {'learning_rate': (0.0, 0.05)}}
  with config.unlocked():
    config.model.num_classes = 1
    config.evaluation.metrics = ('mean_absolute_error',)
    config.compare = ('joint', 'mimo')
    config.num_tuning_seeds = 1
    config.recipes.mimo.grid = grid
    if kind == 'sweep':
      config.sweep.grid = grid
  run = compare.compare if kind == 'compare' else sweep.sweep
  text = run(config, tmp_path).read_text()
  assert '**0.05' in text or '**learning_rate=0.05' in text
  found = results_lib.read(tmp_path)
  name = 'mean_absolute_error/fused'
  if kind == 'compare':
    (_, tuned) = found.header['tuning']
    slow, fast = (one['validation'][0] for one in tuned['candidates'])
    assert found.scores['mimo'][name][0] < 3
    rows = runs.read_lines(tmp_path / 'results.jsonl')
    assert rows[-1]['values'] == {'optimizer.learning_rate': 0.05}
  else:
    slow, fast = (one[name][0] for one in found.scores.values())
  assert fast < slow - 1


def test_the_first_run_of_compare_is_the_run_of_train(tmp_path):
  config = smoke(num_seeds=1, compare=('joint', 'mimo_3'))
  compare.compare(config, tmp_path / 'compare')
  together = results_lib.read(tmp_path / 'compare')
  alone = train.train(
    configuration.with_recipe(config, 'mimo_3'), tmp_path / 'train'
  )
  for name, share in alone.items():
    # The same to rounding: at most one answer in 800 differs.
    assert abs(together.scores['mimo_3'][name][0] - share) <= 1.01 / 800
  rows = runs.read_lines(tmp_path / 'train' / 'metrics.jsonl')
  with np.load(tmp_path / 'compare' / 'curves.npz') as curves:
    losses = curves['losses/mimo_3'][0]
  np.testing.assert_allclose(
    losses[29, 0], rows[-3]['losses']['fused'], rtol=1e-3
  )


def test_statistics_of_small_data_are_those_of_its_own_rows():
  config = smoke(data={'train_fraction': 0.1, 'batch_size': 100})
  batch = running.batches_of(config, 5, 1)[0]  # one epoch: all 100 rows
  np.testing.assert_allclose(np.mean(batch['fou'], 0), 0, atol=1e-5)
  np.testing.assert_allclose(np.std(batch['fou'], 0), 1, atol=1e-4)
  other = running.batches_of(config, 6, 1)[0]
  assert set(batch['row'].tolist()) != set(other['row'].tolist())


# Mistakes.


def test_directories_of_other_runs_are_refused(tmp_path):
  runs.open_workdir(tmp_path, smoke())
  with pytest.raises(ValueError, match='steps: given 31, the run there has'):
    train.train(smoke(steps=31), tmp_path)
  with pytest.raises(ValueError, match='another --workdir'):
    compare.compare(smoke(num_seeds=3), tmp_path)
  path = tmp_path / 'config.json'
  ours = json.loads(path.read_text())['config']
  for text, message in (
    (json.dumps(ours), r'format 1; expected 2'),  # of before there were formats
    (json.dumps({'format': 3, 'config': ours}), r'format 3; expected 2'),
    (path.read_text()[:50], r'config\.json is damaged'),
    ('', r'config\.json is damaged'),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      train.train(smoke(), tmp_path)


def test_what_is_wrong_on_the_command_line_ends_in_one_clear_message(tmp_path):
  wrong = {
    '--config.lerning_rate=0.1': 'lerning_rate',
    '--config.optimizer.lr=0.1': 'lr',
    '--config.steps=many': 'many',
    '--config.steps=0': 'config.steps is 0; expected at least 1',
    '--config.num_seeds=-1': 'config.num_seeds is -1',
    '--config.weighting.name=mimmo': "no 'mimmo'",
    '--config.model.fusion.name=Sum': "no 'Sum'",
    '--config.weighting.name=mgda': 'mgda does not take',
  }
  always = [f'--config={CONFIG}:two,smoke', f'--workdir={tmp_path}/run']
  results = running.run_each(
    [
      *(['train', *always, flag] for flag in wrong),
      ['train', '--config=experiments/configs/handwriten.py'],
      ['train'],
    ]
  )
  messages = [*wrong.values(), 'no file experiments/conf', 'Give a config']
  for (status, text), message in zip(results, messages, strict=True):
    assert status == 1, text
    assert message in text
    assert 'Traceback' not in text
  assert not list(tmp_path.glob('run/checkpoints/*'))


def test_every_command_says_what_it_does():
  commands = ['train', 'compare', 'sweep', 'study', 'probe']
  results = running.run_each([[name, '--help'] for name in commands])
  for name, (status, text) in zip(commands, results, strict=True):
    assert status == 0, text
    assert f'python -m experiments.{name}' in text
    assert '--workdir' in text


def test_a_path_on_the_command_line_may_begin_with_the_home_directory():
  found = flags.FlagValues()
  configuration.define_path('place', None, 'A path.', found)
  found(['', '--place=~/x'])
  assert found['place'].value == os.path.expanduser('~/x')


@pytest.mark.parametrize(
  ('arg', 'message'),
  [('seven', "unknown word 'seven'"), ('two,six', 'two views'), ('tow', 'two')],
)
def test_a_wrong_word_after_the_colon_names_the_known_ones(arg, message):
  with pytest.raises(ValueError, match=message):
    handwritten.get_config(arg)


def test_a_method_may_not_change_what_must_be_shared(tmp_path):
  config = smoke(compare=('joint', 'longer'))
  with config.unlocked():
    config.recipes.longer = {'steps': 40, 'weighting': {'name': 'sum'}}
  with pytest.raises(ValueError, match=r"'longer' changes \['steps'\]"):
    compare.compare(config, tmp_path)
  with pytest.raises(ValueError, match="no recipe 'jiont'"):
    configuration.with_recipe(config, 'jiont')


def test_training_that_only_skips_is_stopped_before_it_is_saved(tmp_path):
  config = smoke(optimizer={'learning_rate': 1e38})
  with pytest.raises(FloatingPointError, match='max_skipped_steps'):
    train.train(config, tmp_path)
  assert not list(tmp_path.glob('checkpoints/[0-9]*'))


def assert_steps(config, batch, methods):
  """A step of each method keeps the state's shapes; nothing is compiled."""
  for method in methods:
    experiment = training.make(configuration.with_recipe(config, method), 15)
    init = jax.eval_shape(experiment.init, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(experiment.train_step, init, batch)
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(
      lambda a: a.shape, init
    )
    assert set(metrics['losses']) >= set(experiment.objectives)


@pytest.mark.parametrize('arg', ['six', 'three', 'two'])
def test_every_configuration_can_take_a_step_with_every_method(arg):
  config = handwritten.get_config(arg)
  for word in ('Reference:', 'Command:', 'Expected:'):
    assert word in handwritten.__doc__
  batch = running.batches_of(config, 0, 1)[0]
  everything = arg == 'three'
  methods = config.recipes if everything else ('joint', 'mgda', 'mmpareto')
  assert_steps(config, batch, methods)


def test_every_method_can_take_a_step_on_crema_d():
  config = crema_d.get_config('smoke')
  batch = {
    'audio': np.zeros((4, 1024, 128, 1), np.float32),
    'visual': np.zeros((4, 2, 32, 32, 3), np.uint8),
    'label': np.arange(4) % 6,
  }
  rivals = [name for name in config.recipes if 'method' in config.recipes[name]]
  assert len(rivals) == 10
  assert_steps(config, batch, rivals)
