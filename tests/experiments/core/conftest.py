"""Runs that are finished, of which tests read: made once for all of them.

What is only needed to make them is imported late: quick tests have no need.
"""

import json

import pytest


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
  """The directory of `train` with `smoke()`, and the scores that it gave.

  Each of pytest's processes has its own: a run is open to one at a time.
  """
  from experiments import train
  from tests.running import smoke

  folder = tmp_path_factory.mktemp('finished') / 'run'
  return folder, json.loads(json.dumps(train.train(smoke(), folder)))


@pytest.fixture(scope='session')
def logged(tmp_path_factory):
  """A comparison of ten steps, and its second recipe trained alone.

  In folders `compare` and `alone`, with what is free of diagnostics. The recipe
  is a method with a loss of its own, balanced by a rule that sees gradients.
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
