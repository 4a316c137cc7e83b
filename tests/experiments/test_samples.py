"""From a data set's sample tree to a trained model, as with real data."""

import importlib

import chex
import jax
import numpy as np
import pytest

from data_pipelines import sample_tree
from data_pipelines import sources
from experiments import compare
from experiments import train
from experiments.core import configuration
from experiments.core import data
from experiments.core import runs
from experiments.core import training
from experiments.report import report
from experiments.report import results as results_lib
from mimo_jax.nn.encoders import _resnet
from tests import running

DATA_SETS = sample_tree.names()
# One setting of three data sets of a kind, pictures and sound.
ALIKE = ('ave', 'kinetics_sounds', 'vggsound')
# A configuration of crema_d with encoders that compile fast: a single block, as
# `running.one_block`, in place of eight.
SHORT = """
from experiments.configs import crema_d
from mimo_jax.nn.encoders import _resnet
from tests import running

_resnet._encoded = running.one_block
get_config = crema_d.get_config
"""
# Settings and data of a configuration other than the default ones.
OTHERS = [
  ('av_mnist', 'agm'),
  ('av_mnist', 'rebuilt'),
  ('av_mnist', 'small,rebuilt'),
  ('cmu_mosei', 'multibench'),
  ('cmu_mosei', 'multibench,mosi'),
  ('crema_d', 'ogm,actor_disjoint'),
  ('ur_funny', 'multibench'),
]


def config_of(name, arg='smoke'):
  module = importlib.import_module(f'experiments.configs.{name}')
  return module.get_config(arg)


def small(config):
  """Makes inputs and encoders small; only one modality stays recurrent."""
  config.evaluation.noise_levels = (1.0,)
  for name in ('text', 'vision'):
    if name in config.model.encoders:
      config.model.encoders[name] = {'name': 'tests.standins:Flat'}
      if f'{name}_length' in config.data.views:
        del config.data.views[f'{name}_length']
  for name, encoder in config.model.encoders.items():
    if encoder.name == 'LeNet':
      encoder.update({'base_width': 4, 'num_blocks': 3})
      if name == 'audio':
        config.model.encoders.audio = {'name': 'tests.standins:Coarse'}
  for view in config.data.views.values():
    if 'max_length' in view:
      view.max_length = 8
    if view.name == 'Frames':
      view.size = 56
  return config


@pytest.fixture
def one_block(monkeypatch):
  """Gives ResNets one block instead of eight."""
  monkeypatch.setattr(_resnet, '_encoded', running.one_block)


@pytest.fixture
def folder_of(sample_of, data_dir_of, monkeypatch):
  """Function: configuration -> its sample tree, for preparing its data."""

  def found(config):
    name, version = config.data.name, config.data.config
    monkeypatch.setenv('TFDS_DATA_DIR', str(data_dir_of(name, version)))
    return sample_of(name) if name in DATA_SETS else None

  return found


def test_every_data_set_has_a_sample_and_a_configuration():
  need_no_download = {*sources.data_sets()} - {*DATA_SETS}
  assert need_no_download == {'handwritten', 'icons', 'synthetic'}
  for name in sources.data_sets():
    document = importlib.import_module(f'experiments.configs.{name}').__doc__
    for word in ('Reference:', 'Command:', 'Expected:'):
      assert word in document


def chance(config):
  """Returns the accuracy of predicting the sample's most frequent class."""
  name, version = config.data.name, config.data.config
  source = sources.open_source(name, config=version, split='test')
  if name == 'cmu_mosei':
    labels = [int(element['score'] >= 0) for element in source]
  else:
    labels = [int(element['label']) for element in source]
  return np.bincount(labels).max() / len(labels)


def assert_learned(config, workdir):
  """Checks that a model is better than chance on unseen rows."""
  last = runs.read_lines(workdir / 'metrics.jsonl')[-1]
  assert (last['step'], last['split']) == (config.steps, 'test')
  primary = config.evaluation.metrics[0]
  assert last[f'{primary}/fused'] > 1.3 * chance(config)
  assert any(key.startswith('shapley/') for key in last)


@pytest.mark.usefixtures('one_block')
@pytest.mark.parametrize(
  'name', ['av_mnist', 'cmu_mosei', 'htad', 'icons', *ALIKE]
)
def test_a_sample_is_prepared_and_learned(
  name, folder_of, tmp_path, monkeypatch
):
  config = config_of(name)
  if name == 'icons':
    config.steps, config.evaluation.noise_levels = 60, (1.0,)
  else:
    config = small(config)
  if name in ALIKE:
    config = small(config_of('kinetics_sounds'))
    config.data.name = name
    config.model.num_classes = 309
    config.data.batch_size = 8
    config.optimizer.learning_rate.init_value = 1e-2  # of few features
  if name in ALIKE[1:]:  # that their rows can be learned is tested with ave
    config.steps = 2
    config.model.encoders = {
      each: {'name': 'tests.standins:Flat'} for each in config.model.encoders
    }
  config.log_every_steps = config.checkpoint_every_steps = config.steps
  folder = folder_of(config)
  if name == 'htad':  # by the run itself
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  scores = train.train(config, tmp_path, folder)
  assert all(map(np.isfinite, scores.values()))
  if name not in ALIKE[1:]:
    assert_learned(config, tmp_path)


@pytest.mark.usefixtures('one_block')
def test_one_command_learns_and_resumes_after_a_kill(folder_of, tmp_path):
  # With pictures and sound, random views, batch statistics and a schedule.
  config = config_of('crema_d')
  config.data.batch_size = 8
  short = tmp_path / 'short.py'
  short.write_text(SHORT)
  arguments = [
    f'--config={short}:smoke',
    '--config.optimizer.learning_rate.init_value=0.01',  # of few features
    '--config.data.batch_size=8',
    '--config.data.views.visual.size=56',
    '--config.evaluation.noise_levels=()',
    f'--manual_dir={folder_of(config)}',
  ]
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  command = [*arguments, f'--workdir={killed}']
  saved = killed / 'checkpoints' / '10'
  running.kill_when('train', command, saved.exists)
  resumed = running.run('train', *command)
  assert resumed.returncode == 0, resumed.stderr
  assert 'shapley/' in resumed.stdout
  running.run('train', *arguments, f'--workdir={whole}')
  running.assert_same_run(killed, whole, config)
  assert_learned(config, killed)


@pytest.mark.usefixtures('reused_programs')
def test_sequences_with_lengths_are_learned_and_a_stopped_run_resumes(
  folder_of, tmp_path
):
  config = small(config_of('ur_funny'))
  folder = folder_of(config)
  stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
  with running.ending_at(15), pytest.raises(KeyboardInterrupt):
    train.train(config, stopped, folder)
  assert (stopped / 'checkpoints' / '10').exists()
  for workdir in (stopped, whole):
    train.train(config, workdir, folder)
  running.assert_same_run(stopped, whole, config)
  assert_learned(config, stopped)


@pytest.mark.parametrize(
  ('name', 'arg'), [*((name, '') for name in DATA_SETS), *OTHERS]
)
def test_every_setting_takes_a_step_on_its_sample(
  name, arg, folder_of, monkeypatch
):
  """At the published size, once for each model, without compiling."""
  config = config_of(name, arg)
  if name in ALIKE[1:] or 'ogm' in arg:  # ResNets as those of others
    monkeypatch.setattr(_resnet, '_encoded', running.one_block)
  config.data.batch_size, config.data.num_workers = 4, 0
  inputs = data.open_data(config, 0, folder_of(config))
  batch = next(inputs.train)
  for key, value in batch.items():
    assert np.all(np.isfinite(value)), key
  experiment = training.make(config, inputs.steps_per_epoch)
  state = jax.eval_shape(experiment.init, jax.random.key(0), batch)
  after, metrics = jax.eval_shape(experiment.train_step, state, batch)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
  assert {*metrics['losses']} == {'fused', *config.model.encoders}


def test_joint_training_is_chosen_by_one_word():
  for name in DATA_SETS:
    config = config_of(name, 'smoke,joint')
    assert config.weighting.to_dict() == {'name': 'joint'}


@pytest.mark.parametrize(
  ('name', 'arg', 'primary'),
  [
    ('av_mnist', 'smoke', 'accuracy'),
    # The smallest error is the best.
    ('cmu_mosei', 'multibench,mosi,smoke', 'mean_absolute_error'),
  ],
)
def test_recipes_are_compared_as_on_handwritten(
  name, arg, primary, folder_of, tmp_path
):
  config = small(config_of(name, arg))
  config.update({'steps': 4, 'log_every_steps': 2, 'num_seeds': 2})
  others = [m for m in config.evaluation.metrics if m != primary]
  config.evaluation.metrics = (primary, *others)
  config.compare = ('mimo_1',)
  folder = folder_of(config)
  compare.compare(config, tmp_path / 'compare', folder)
  results = results_lib.read(tmp_path / 'compare')
  assert '| mimo_1 |' in report.tables(tmp_path / 'compare')
  scores = results.scores['mimo_1']
  assert np.all(np.isfinite(scores[f'{primary}/fused']))
  # One of its seeds equals the run of `train`, batch statistics included.
  config = configuration.with_recipe(config, 'mimo_1')
  alone = train.train(config, tmp_path / 'train', folder)
  with np.load(tmp_path / 'compare' / 'curves.npz') as curves:
    losses = curves['losses/mimo_1'][0, -1, 0]
  rows = runs.read_lines(tmp_path / 'train' / 'metrics.jsonl')
  (last,) = [r for r in rows if r.get('split') == 'train' and r['step'] == 4]
  np.testing.assert_allclose(losses, last['losses']['fused'], rtol=2e-2)
  assert alone.keys() == scores.keys()
