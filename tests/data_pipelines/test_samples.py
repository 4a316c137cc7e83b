"""From a data set's sample tree to a trained model, as for the real one."""

import functools
import importlib

import numpy as np
import pytest

from data_pipelines import sample_tree
from data_pipelines import sources
from experiments import compare
from experiments import train
from experiments.core import configuration
from experiments.core import runs
from experiments.reporting import report
from experiments.reporting import results as results_lib
from tests import running

DATA_SETS = sample_tree.names()
# Pictures and sound, with random views, batch statistics and a schedule; and
# sequences of three modalities, of which lengths are given or not.
KILLED = ('crema_d', 'cmu_mosei', 'ur_funny')
# Settings and data that a configuration has besides its default ones.
OTHERS = {
  'av_mnist': ['agm', 'rebuilt'],
  'cmu_mosei': ['multibench', 'multibench,mosi'],
  'crema_d': ['ogm,actor_disjoint'],
  'ur_funny': ['multibench'],
}


def config_of(name, arg='smoke'):
  module = importlib.import_module(f'experiments.configs.{name}')
  return module.get_config(arg)


@pytest.fixture(scope='module')
def folder_of(tmp_path_factory):
  """Data set -> its sample tree; prepared data have a place of their own."""
  root = tmp_path_factory.mktemp('samples')

  @functools.cache
  def written(name):
    sample_tree.write(name, root / name)
    return root / name

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(root / 'prepared'))
    yield written


def test_every_data_set_has_a_sample_and_a_configuration():
  # The others need no download.
  assert set(sources.data_sets()) - set(DATA_SETS) == {
    'handwritten',
    'synthetic',
  }
  for name in sources.data_sets():
    document = importlib.import_module(f'experiments.configs.{name}').__doc__
    for word in ('Reference:', 'Command:', 'Expected:'):
      assert word in document


def chance(name):
  """Share of right answers by the most frequent of the sample's classes."""
  config = config_of(name).data
  source = sources.open_source(name, config=config.config, split='test')
  if name == 'cmu_mosei':
    labels = [int(element['score'] >= 0) for element in source]
  else:
    labels = [int(element['label']) for element in source]
  return np.bincount(labels).max() / len(labels)


def assert_learned(name, workdir):
  """It is better than chance, on rows that it was not trained on."""
  config = config_of(name)
  last = runs.read_lines(workdir / 'metrics.jsonl')[-1]
  assert (last['step'], last['split']) == (config.steps, 'test')
  primary = config.evaluation.metrics[0]
  assert last[f'{primary}/fused'] > 1.3 * chance(name)


@pytest.mark.parametrize(
  'name', [name for name in DATA_SETS if name not in KILLED]
)
def test_a_sample_is_prepared_and_learned(name, folder_of, tmp_path):
  scores = train.train(config_of(name), tmp_path, folder_of(name))
  assert any(key.startswith('shapley/') for key in scores)
  assert_learned(name, tmp_path)


@pytest.mark.parametrize('name', KILLED)
def test_one_command_learns_and_after_a_kill_goes_on(name, folder_of, tmp_path):
  arguments = [
    f'--config=experiments/configs/{name}.py:smoke',
    f'--manual_dir={folder_of(name)}',
  ]
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  running.kill_when(
    'train',
    [*arguments, f'--workdir={killed}'],
    (killed / 'checkpoints' / '10').exists,
  )
  resumed = running.run('train', *arguments, f'--workdir={killed}')
  assert resumed.returncode == 0, resumed.stderr
  assert 'shapley/' in resumed.stdout
  running.run('train', *arguments, f'--workdir={whole}')
  running.assert_same_run(killed, whole, config_of(name))
  assert_learned(name, killed)


@pytest.mark.parametrize('name', DATA_SETS)
def test_joint_training_is_one_word(name, folder_of, tmp_path):
  config = config_of(name, 'smoke,joint')
  config.steps = 2
  train.train(config, tmp_path, folder_of(name))
  rows = runs.read_lines(tmp_path / 'metrics.jsonl')
  (last,) = [row for row in rows if row.get('split') == 'train']
  assert set(last['weights'].values()) == {1.0}
  assert config.model.detach_heads


@pytest.mark.parametrize(
  ('name', 'arg'), [(name, arg) for name in OTHERS for arg in OTHERS[name]]
)
def test_the_other_settings_train(name, arg, folder_of, tmp_path):
  config = config_of(name, f'{arg},smoke')
  config.steps = 2
  scores = train.train(config, tmp_path, folder_of(name))
  assert np.isfinite(scores[f'{config.evaluation.metrics[0]}/fused'])


@pytest.mark.parametrize(
  ('name', 'others'), [('av_mnist', []), ('ur_funny', ['mgda'])]
)
def test_methods_are_compared_as_on_handwritten(
  name, others, folder_of, tmp_path
):
  config = config_of(name)
  config.update({'steps': 4, 'log_every_steps': 2, 'num_seeds': 2})
  config.compare = ('joint', *others, 'mimo_1')
  compare.compare(config, tmp_path / 'compare', folder_of(name))
  results = results_lib.read(tmp_path / 'compare')
  assert list(results.scores) == ['joint', *others, 'mimo_1']
  assert '| mimo_1 |' in report.tables(tmp_path / 'compare')
  # One seed of it is the run of `train`, batch statistics included.
  config = configuration.with_recipe(config, 'mimo_1')
  alone = train.train(config, tmp_path / 'train', folder_of(name))
  with np.load(tmp_path / 'compare' / 'curves.npz') as curves:
    losses = curves['losses/mimo_1'][0, -1, 0]
  rows = runs.read_lines(tmp_path / 'train' / 'metrics.jsonl')
  (last,) = [r for r in rows if r.get('split') == 'train' and r['step'] == 4]
  np.testing.assert_allclose(losses, last['losses']['fused'], rtol=2e-2)
  assert alone.keys() == results.scores['mimo_1'].keys()
