"""Finished runs for tests that only read them: made once.

Imports that only making them needs are in the functions: quick tests do not pay
for them.
"""

import json

import pytest


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
  """The directory of `train` with `smoke()`, and the scores that it returned.

  Each of pytest's processes has its own, since only one process at a time may
  open a run.
  """
  from experiments import train
  from tests.running import smoke

  folder = tmp_path_factory.mktemp('finished') / 'run'
  return folder, json.loads(json.dumps(train.train(smoke(), folder)))


@pytest.fixture(scope='session')
def logged(tmp_path_factory):
  """A comparison of ten steps, and its second recipe trained alone.

  They are in the folders `compare` and `alone`, with the diagnostics that cost
  nothing. The recipe is a method with its own loss, balanced by a rule that
  sees gradients.
  """
  from experiments import compare
  from experiments import train
  from experiments.core import configuration
  from tests.running import smoke

  folder = tmp_path_factory.mktemp('logged')
  config = smoke(num_seeds=1, steps=10, diagnostics='free')
  config.compare = ('joint', 'aligned')
  with config.unlocked():
    config.recipes.aligned = {'method': config.recipes.lfm.method.to_dict()}
    config.recipes.aligned.weighting = {'name': 'mgda'}
  compare.compare(config, folder / 'compare')
  train.train(configuration.with_recipe(config, 'aligned'), folder / 'alone')
  return folder
