"""Lengths of training and values of alpha that AGM's authors give."""

from typing import NamedTuple

from ml_collections import config_dict


class Named(NamedTuple):
  """What they answer in issue 10 of lihongcs/AGM, for late fusion."""

  epochs: int
  alpha: float  # modulated from the first epoch to the last


CREMA_D = Named(1500, 1.5)
UR_FUNNY = Named(800, 4.0)
AV_MNIST = Named(1000, 2.5)


def lengthen(
  config: config_dict.ConfigDict, named: Named, steps_per_epoch: int
) -> None:
  """Trains as long as they do, and gives the recipe `agm` their alpha.

  A learning rate that decays in steps does so in proportion: it would be zero
  for most of the time.
  """
  steps = named.epochs * steps_per_epoch
  rate = config.optimizer.learning_rate
  if isinstance(rate, config_dict.ConfigDict):
    rate.transition_steps = round(rate.transition_steps * steps / config.steps)
  config.steps = steps
  config.checkpoint_every_steps = steps // 100
  config.recipes.agm = {'method': {'name': 'agm', 'alpha': named.alpha}}
