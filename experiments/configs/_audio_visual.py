"""What configurations of sound and pictures share: two ResNet-18, one a sense.

Every setting that a data set does not choose for itself is here, in the order
of a paper's appendix.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict


class Published(NamedTuple):
  """What released code trains all of its data sets by."""

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

# Units of noise, about the deviation of what a view gives: the filter bank is
# divided by twice its deviation, and an STFT is in nats.
_NOISE_SCALE = {
  'FilterBank': 0.5,
  'Psd10s': 1.0,
  'Stft3s': 2.5,
  'Stft5s': 2.5,
}


def fill(
  config: config_dict.ConfigDict,
  published: Published,
  *,
  smoke: bool,
  data_set: str,
  audio: str,
  frames: Mapping[str, Any],
  num_classes: int,
  steps_per_epoch: int,
  version: str | None = None,
  metrics: tuple[str, ...] = ('accuracy', 'macro_f1'),
) -> None:
  """Writes into a configuration what it has besides `configuration.begin`.

  Args:
    config: what is written into.
    published: whose settings.
    smoke: for a few steps of a narrow model on small pictures.
    data_set: its name.
    audio: the view of the sound.
    frames: which of a clip's frames are seen, as `data_pipelines.views` says.
    num_classes: what is told apart.
    steps_per_epoch: of batches of the published size.
    version: of the data set, if it has several.
    metrics: the first is the primary one.
  """
  size, width = (32, 8) if smoke else (224, 64)

  # Data
  config.data = {
    'name': data_set,
    'config': version,
    'train_fraction': 1.0,
    'batch_size': 16 if smoke else published.batch_size,
    'views': {
      'audio': {'name': audio},
      'visual': {'name': 'Frames', 'size': size, **frames},
    },
    'standardize': False,
    'noise': 0.0,
    'in_memory': False,
    'num_workers': 0 if smoke else 8,
    'num_threads': 0 if smoke else 1,
  }

  # Model
  config.model = {
    'encoders': {
      'audio': {'name': 'ResNet18', 'width': width, 'dtype': 'float32'},
      'visual': {'name': 'ResNet18', 'width': width, 'dtype': 'float32'},
    },
    'num_classes': num_classes,
    'fusion': {'name': 'ConcatFusion'},
    'heads': 'share',  # of the fused logits
    'detach_heads': False,
    'checkpoint_encoders': False,
    'kernel_init': 'glorot_normal',
  }

  # Objectives
  config.loss = 'cross_entropy_losses'
  config.target = 'label'

  # Weighting
  config.weighting = {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}

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
  config.steps = 20 if smoke else published.total_epochs * steps_per_epoch
  config.log_every_steps = 10
  config.checkpoint_every_steps = 10 if smoke else steps_per_epoch

  # Evaluation
  config.evaluation = {
    'batch_size': 16 if smoke else 64,
    'metrics': metrics,
    'noise_levels': (1.0,) if smoke else (0.5, 1.0, 1.5, 2.0),
    'noise_scale': {'audio': _NOISE_SCALE[audio], 'visual': 1.0},
  }

  # Comparison
  config.num_seeds = 2 if smoke else 3
