"""Models and options that methods refuse."""

import re

import pytest

from experiments import methods
from experiments.core import configuration
from experiments.core import training
from mimo_jax import nn
from tests import running
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_methods_that_compare_modalities_refuse_a_single_one():
  audio = {'audio': recorded.FEATURES['audio']}
  for name in ('agm', 'lfm', 'midas', 'ogm'):
    message = rf"{name} was given modalities=\('audio',\); expected .*two"
    make = getattr(methods, name).make
    with pytest.raises(ValueError, match=message):
      make(recorded.make_task(audio))


def test_features_of_different_widths_are_refused_where_one_is_needed():
  encoders = {'audio': nn.MLP((4,)), 'visual': nn.MLP((5,))}
  task = recorded.make_task(encoders=encoders)
  widths = re.escape("widths {'audio': 4, 'visual': 5}; expected one width")

  def use(name):
    method, state, batch = recorded.begun(getattr(methods, name), task)
    method.losses(state, batch, state.key, None)

  for name, advice in (
    ('lfm', "alignment='js'"),
    ('mcr', 'config.method.contrast = 0.0'),
    ('mla', 'share a dense layer'),
    ('reconboost', 'end in layers of equal width'),
  ):
    message = f'{widths}.*{re.escape(advice)}'
    with pytest.raises(ValueError, match=message):
      use(name)


def test_errors_name_options_out_of_range():
  for name, option, value, expected in (
    ('cml', 'released', 'authors', "None or 'balance_benchmark'"),
    ('lfm', 'released', 'mcr', "None or 'authors'"),
    ('g_blending', 'super_epochs', 0.0, 'a number above 0; offline=True'),
    ('g_blending', 'negative', 'drop', "'zero' or 'absolute'"),
    ('g_blending', 'total', 1.0, "'one' or 'objectives'"),
    ('pmr', 'rule', 'paper', "'switch' or 'clipped'"),
    ('umt', 'strength', -1.0, 'a number of at least 0'),
    ('umt', 'teacher_epochs', 0, 'a number above 0'),
    ('mcr', 'strength', -0.5, 'a number of at least 0'),
    ('mcr', 'own', -0.5, 'a number of at least 0'),
    ('mcr', 'contrast', -0.5, 'a number of at least 0'),
    ('mcr', 'reconstruction', -0.5, 'a number of at least 0'),
    ('mcr', 'game', 'war', "'greedy' or 'independent' or 'collaborative'"),
    ('aug', 'residual', 1.5, 'a number from 0 to 1'),
    ('opm', 'rate', 1.5, 'a number from 0 to 1'),
    ('ogm_opm', 'probability', -0.1, 'a number from 0 to 1'),
    ('reconboost', 'fit', 1.0, 'more than residual'),
  ):
    config = configuration.with_recipe(running.smoke(), name)
    with config.unlocked():
      config.method = config.method.to_dict() | {option: value}
    message = f'{name} was given {option}={value!r}; expected {expected}'
    with pytest.raises(ValueError, match=re.escape(message)):
      training.make(config, 15)
