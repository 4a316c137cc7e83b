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
  """A comparison of ten steps, and two of its recipes trained alone.

  In folders `compare`, `umt` and `mgda`, with what is free of diagnostics.
  """
  from experiments import compare
  from experiments import train
  from experiments.core import configuration
  from tests.running import smoke

  folder = tmp_path_factory.mktemp('logged')
  config = smoke(num_seeds=1, steps=10, diagnostics='free')
  config.compare = ('joint', 'mgda', 'umt')
  compare.compare(config, folder / 'compare')
  for name in ('mgda', 'umt'):
    train.train(configuration.with_recipe(config, name), folder / name)
  return folder
