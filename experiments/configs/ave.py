"""AVE: 28 events that can be heard and seen, one a clip, two ResNet-18.

Reference: the settings of OGM-GE (GeWu-Lab/OGM-GE_CVPR2022, commit 343dc1d,
  and its history): power spectral density of ten seconds, three of ten frames,
  SGD. No number is published beside the code; a later paper (arXiv 2510.21797)
  reports 70.4 to 70.9 % of clips for its own method. The official validation
  and test splits are used, and the last step is tested.
Command: python -m experiments.train
  --config=experiments/configs/ave.py --manual_dir=FOLDER
Expected: not measured, for want of the data and a GPU. With `smoke` on the
  sample tree, one minute on two CPU cores.

The argument after the colon takes words separated by commas: a method of
`experiments/methods`, and `smoke` for a few steps of a narrow model on small
pictures.
"""

from ml_collections import config_dict

from experiments.core import configuration

# Of 3,339 rows in batches of 64, as published.
_EPOCH = 53


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg)
  smoke = words['smoke'] is not None
  size, width = (32, 8) if smoke else (224, 64)

  # Data
  config.data = {
    'name': 'ave',
    'config': None,
    'train_fraction': 1.0,
    'batch_size': 16 if smoke else 64,
    'views': {
      'audio': {'name': 'Psd10s'},
      'visual': {
        'name': 'Frames',
        'policy': 'segment_starts',
        'num_frames': 3,
        'size': size,
      },
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
    'num_classes': 28,
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
  config.gradient_transforms = (
    {'name': 'add_decayed_weights', 'weight_decay': 1e-4},
  )
  config.optimizer = {
    'name': 'sgd',
    'momentum': 0.9,
    'learning_rate': {
      'name': 'exponential_decay',
      'init_value': 1e-3,
      'transition_steps': 70 * _EPOCH,
      'decay_rate': 0.1,
      'staircase': True,
    },
  }

  # Schedule
  config.steps = 20 if smoke else 100 * _EPOCH
  config.log_every_steps = 10
  config.checkpoint_every_steps = 10 if smoke else _EPOCH

  # Evaluation
  config.evaluation = {
    'batch_size': 16 if smoke else 64,
    'metrics': ('accuracy', 'macro_f1'),  # the first is the primary one
    'noise_levels': (1.0,) if smoke else (0.5, 1.0, 1.5, 2.0),
    # Units of noise: the deviation of such inputs.
    'noise_scale': {'audio': 1.0, 'visual': 1.0},
  }

  # Comparison
  config.num_seeds = 2 if smoke else 3
  return configuration.finish(config, words)
