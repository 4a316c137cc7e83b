"""Lengths of training and values of alpha that AGM's authors give."""

from typing import NamedTuple

from ml_collections import config_dict


class Named(NamedTuple):
  """What the authors say in issue 10 of lihongcs/AGM, for late fusion."""

  epochs: int
  alpha: float  # modulated from the first epoch to the last


CREMA_D = Named(1500, 1.5)
UR_FUNNY = Named(800, 4.0)
AV_MNIST = Named(1000, 2.5)


def lengthen(
  config: config_dict.ConfigDict, named: Named, steps_per_epoch: int
) -> None:
  """Sets the authors' length of training, and their alpha of recipe `agm`.

  A learning rate that decays in steps is stretched in proportion; otherwise it
  would be about zero most of the time.
  """
  steps = named.epochs * steps_per_epoch
  rate = config.optimizer.learning_rate
  if isinstance(rate, config_dict.ConfigDict):
    rate.transition_steps = round(rate.transition_steps * steps / config.steps)
  config.steps = steps
  config.checkpoint_every_steps = steps // 100
  config.recipes.agm = {'method': {'name': 'agm', 'alpha': named.alpha}}
