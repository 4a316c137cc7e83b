"""What configurations of sound and pictures share: two ResNet-18."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict


class Published(NamedTuple):
  """The settings that released code has for all of its data sets."""

  batch_size: int
  gradient_transforms: tuple[Mapping[str, Any], ...]
  optimizer: Mapping[str, Any]
  decay_every_epochs: int  # from a learning rate of 1e-3 to a tenth of it
  total_epochs: int


# GeWu-Lab/OGM-GE_CVPR2022, commit 343dc1d.
OGM = Published(
  batch_size=64,
  gradient_transforms=({'name': 'add_decayed_weights', 'weight_decay': 1e-4},),
  optimizer={'name': 'sgd', 'momentum': 0.9},
  decay_every_epochs=70,
  total_epochs=100,
)
# GeWu-Lab/BalanceBenchmark, commit 4c1482f.
BALANCE_BENCHMARK = Published(
  batch_size=32,
  gradient_transforms=(),
  optimizer={'name': 'adamw', 'weight_decay': 0.01},
  decay_every_epochs=10,
  total_epochs=30,
)

# Units of noise: about the standard deviation of a view. The filter bank is
# divided by twice its deviation; an STFT is in nats.
_NOISE_SCALE = {'FilterBank': 0.5, 'Psd10s': 1.0, 'Stft3s': 2.5, 'Stft5s': 2.5}
# Changes of the word `smoke`.
SMOKE: dict[str, Any] = {
  'data': {'batch_size': 16, 'views': {'visual': {'size': 32}}},
  'model': {'encoders': {'audio': {'width': 8}, 'visual': {'width': 8}}},
  'evaluation': {'batch_size': 16, 'noise_levels': (1.0,)},
}


def fill(
  config: config_dict.ConfigDict,
  published: Published,
  *,
  data_set: str,
  audio: str,
  frames: Mapping[str, Any],
  num_classes: int,
  steps_per_epoch: int,
  version: str | None = None,
) -> None:
  """Completes a configuration that `configuration.begin` has begun.

  `audio` is a view, and `frames` are the arguments of another, see
  `data_pipelines.views`. Steps are for batches of the published size.
  """
  # Data
  config.data.name = data_set
  config.data.config = version
  config.data.batch_size = published.batch_size
  config.data.views = {
    'audio': {'name': audio},
    'visual': {'name': 'Frames', 'size': 224, **frames},
  }
  config.data.num_workers = 8
  config.data.num_threads = 1

  # Model
  config.model.encoders = {
    name: {'name': 'ResNet18', 'width': 64, 'dtype': 'float32'}
    for name in ('audio', 'visual')
  }
  config.model.num_classes = num_classes
  config.model.heads = 'share'  # of the fused logits
  config.model.kernel_init = 'glorot_normal'

  # Optimiser
  config.gradient_transforms = published.gradient_transforms
  config.optimizer = {
    **published.optimizer,
    'learning_rate': {
      'name': 'exponential_decay',
      'init_value': 1e-3,
      'transition_steps': published.decay_every_epochs * steps_per_epoch,
      'decay_rate': 0.1,
      'staircase': True,
    },
  }

  # Schedule
  config.steps = published.total_epochs * steps_per_epoch
  config.checkpoint_every_steps = steps_per_epoch

  # Evaluation
  config.evaluation.noise_scale = {'audio': _NOISE_SCALE[audio], 'visual': 1.0}

  # Comparison
  config.num_seeds = 3
