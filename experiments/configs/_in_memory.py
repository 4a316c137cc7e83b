"""What configurations of small data sets share: rows in memory, SGD."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

MLP = {'name': 'MLP', 'widths': (128, 64)}


def fill(
  config: config_dict.ConfigDict,
  *,
  data_set: str,
  version: str,
  encoders: Mapping[str, Mapping[str, Any]],
  num_classes: int,
  test_batch_size: int,
) -> None:
  """Completes a configuration that `configuration.begin` has begun.

  Noise is in units of about the standard deviation of each feature.
  """
  # Data
  config.data.name = data_set
  config.data.config = version
  config.data.batch_size = 64
  config.data.in_memory = True

  # Model
  config.model.encoders = {name: dict(each) for name, each in encoders.items()}
  config.model.num_classes = num_classes

  # Weighting
  config.weighting.update({'penalty': 3.0, 'temperature': 0.3})

  # Optimiser
  config.optimizer = {'name': 'sgd', 'learning_rate': 0.05, 'momentum': 0.9}

  # Schedule
  config.steps = 600
  config.log_every_steps = 20
  config.checkpoint_every_steps = 100

  # Evaluation
  config.evaluation.batch_size = test_batch_size
  config.evaluation.noise_scale = dict.fromkeys(encoders, 1.0)

  # Comparison
  config.num_seeds = 10
