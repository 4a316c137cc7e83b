"""Configurations with the training length of AGM's authors."""

import importlib

import pytest


@pytest.mark.parametrize(
  ('name', 'arg', 'epochs', 'rows', 'alpha'),
  [
    ('crema_d', '', 1500, 6698, 1.5),
    ('crema_d', 'ogm,', 1500, 6698, 1.5),
    ('ur_funny', '', 800, 7614, 4.0),
    ('av_mnist', '', 1000, 55_000, 2.5),
    ('av_mnist', 'agm,', 1000, 55_000, 2.5),
    ('av_mnist', 'small,rebuilt,', 1000, 7334, 2.5),
  ],
)
def test_as_agm_trains_their_number_of_epochs_with_their_alpha(
  name, arg, epochs, rows, alpha
):
  get_config = importlib.import_module(f'experiments.configs.{name}').get_config
  config = get_config(f'{arg}as_agm')
  seen = config.steps * config.data.batch_size / rows
  assert seen == pytest.approx(epochs, rel=0.01)
  # The compared recipes are theirs, without any choices.
  assert config.recipes.agm.to_dict() == {
    'method': {'name': 'agm', 'alpha': alpha}
  }
  rate, usual = config.optimizer.learning_rate, get_config(arg.rstrip(','))
  if name == 'crema_d':  # the rate falls as often as by default
    drops = config.steps / rate.transition_steps
    of_usual = usual.optimizer.learning_rate.transition_steps
    assert drops == pytest.approx(usual.steps / of_usual)
    assert drops < 4
  else:
    assert rate == usual.optimizer.learning_rate
  assert get_config(f'{arg}as_agm,smoke').steps == 20
