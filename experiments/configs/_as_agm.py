"""The length of training and the value of alpha that AGM's authors give."""

from ml_collections import config_dict


def lengthen(
  config: config_dict.ConfigDict,
  *,
  epochs: int,
  alpha: float,
  steps_per_epoch: int,
) -> None:
  """Sets what the authors say in issue 10 of lihongcs/AGM, for late fusion.

  Alpha is that of the recipe `agm`, from the first epoch to the last. A
  learning rate that decays in steps is stretched in proportion; otherwise it
  would be about zero most of the time.
  """
  steps = epochs * steps_per_epoch
  rate = config.optimizer.learning_rate
  if isinstance(rate, config_dict.ConfigDict):
    rate.transition_steps = round(rate.transition_steps * steps / config.steps)
  config.steps = steps
  config.checkpoint_every_steps = steps // 100
  config.recipes.agm = {'method': {'name': 'agm', 'alpha': alpha}}
