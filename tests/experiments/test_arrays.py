"""From a file of one's own to a trained model."""

import numpy as np
import pytest

from experiments import compare
from experiments import train
from experiments.configs import arrays
from experiments.core import trained
from experiments.reporting import results as results_lib


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  random = np.random.RandomState(0)
  label = random.randint(0, 3, 240)
  where = tmp_path_factory.mktemp('arrays') / 'mine.npz'
  np.savez(
    where,
    vector=3 * np.eye(3, 6)[label] + random.normal(size=(240, 6)),
    steps=random.normal(size=(240, 4, 2)) + label[:, None, None],
    steps_length=random.randint(1, 5, 240),
    photo=(50 * label[:, None, None] + np.zeros((240, 8, 8))).astype(np.uint8),
    label=label,
    group=np.arange(240) // 2,
  )
  return where


def test_encoders_are_chosen_by_shape_and_can_be_changed(path):
  config = arrays.get_config(f'{path},mimo_1')
  encoders = config.model.encoders
  assert {name: e.name for name, e in encoders.items()} == {
    'vector': 'MLP',
    'steps': 'GRU',
    'photo': 'LeNet',
  }
  assert config.model.num_classes == 3
  assert config.weighting.penalty == 1.0
  config.model.encoders.vector.widths = (7,)


def test_a_file_is_compared_as_other_data_are(path, tmp_path):
  config = arrays.get_config(f'{path},smoke')
  config.steps, config.compare = 40, ('joint', 'mimo_1')
  compare.compare(config, tmp_path)
  scores = results_lib.read(tmp_path).scores
  for recipe in config.compare:
    assert np.mean(scores[recipe]['accuracy/fused']) > 0.7


def test_a_file_is_trained_on(path, tmp_path):
  config = arrays.get_config(f'{path},smoke')
  config.steps = 2
  assert np.isfinite(train.train(config, tmp_path)['accuracy/fused'])
  run = trained.load(tmp_path)
  rows = {
    'steps': np.random.RandomState(1).normal(size=(3, 4, 2)).astype(np.float32),
    'steps_length': np.array([4, 2, 1], np.int32),
  }
  assert run.predict(rows)['steps'].shape == (3, 3)
  del rows['steps_length']  # which would be 0, and all rows empty
  with pytest.raises(ValueError, match=r"not given \['steps_length'\]"):
    run.predict(rows)


@pytest.mark.parametrize('arg', ['', 'mimo', 'a.npz,b.npz'])
def test_an_argument_without_one_file_shows_what_is_expected(arg):
  with pytest.raises(ValueError, match=r'expected one.*arrays.py:FILE.npz'):
    arrays.get_config(arg)
