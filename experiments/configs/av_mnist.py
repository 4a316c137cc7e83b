"""AV-MNIST: digits as pictures and as spectrograms of the spoken word.

Reference: `multibench`, the settings of MultiBench (pliang279/MultiBench,
  commit 49f9be2): two LeNets, a hidden layer of 100, SGD. `agm`, those of AGM
  (lihong2303/AGM_ICCV2023, commit 5a65542): two ResNet-18. Neither publishes a
  number beside the code; users of the arrays report about 65 % for pictures and
  43 % for sound alone (mfas, issue 17), joint training is remembered at 70 to
  72 %, not checked. AGM leaves out the last tenth of both parts; here the
  splits are MultiBench's. The last step is tested.
Command: python -m experiments.train
  --config=experiments/configs/av_mnist.py --manual_dir=FOLDER
Expected: not measured on the published arrays, for want of them. With `smoke`
  on the sample tree, half a minute on two CPU cores.

The argument after the colon takes words separated by commas: a setting
(`multibench` or `agm`), the data (`published`, the default, or `rebuilt` from
MNIST and spoken digits), a method of `experiments/methods`, and `smoke` for
a few steps.
"""

from typing import Any

from ml_collections import config_dict

from experiments.core import configuration

# Of 55,000 rows in batches of 40 and 64.
_EPOCH_OF_40 = 1_375
_EPOCH_OF_64 = 860


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(
    arg, setting=('multibench', 'agm'), data=('published', 'rebuilt')
  )
  smoke = words['smoke'] is not None
  is_agm = words['setting'] == 'agm'

  # Data
  config.data = {
    'name': 'av_mnist',
    'config': 'rebuilt' if words['data'] == 'rebuilt' else 'multibench',
    'train_fraction': 1.0,
    'batch_size': 64 if is_agm else 40,
    'views': {
      'audio': {'name': 'Scaled', 'source': 'audio', 'divisor': 255.0},
      'image': {'name': 'Scaled', 'source': 'image', 'divisor': 255.0},
    },
    'standardize': False,
    'noise': 0.0,
    'in_memory': False,
    'num_workers': 0 if smoke else 2,
    'num_threads': 0 if smoke else 1,
  }

  # Model
  if is_agm:
    width = 8 if smoke else 64
    encoders: dict[str, dict[str, Any]] = {
      'audio': {'name': 'ResNet18', 'width': width, 'dtype': 'float32'},
      'image': {'name': 'ResNet18', 'width': width, 'dtype': 'float32'},
    }
    fusion: dict[str, Any] = {'name': 'ConcatFusion'}
  else:
    encoders = {
      'audio': {'name': 'LeNet', 'base_width': 6, 'num_blocks': 6},
      'image': {'name': 'LeNet', 'base_width': 6, 'num_blocks': 4},
    }
    fusion = {'name': 'ConcatFusion', 'hidden_widths': (100,)}
  config.model = {
    'encoders': encoders,
    'num_classes': 10,
    'fusion': fusion,
    'heads': 'auxiliary',  # a dense layer of its own for each modality
    'detach_heads': False,
    'checkpoint_encoders': False,
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
  if is_agm:
    config.optimizer = {'name': 'sgd', 'learning_rate': 1e-4, 'momentum': 0.9}
  else:
    config.optimizer = {'name': 'sgd', 'learning_rate': 0.1}

  # Schedule
  config.steps = (
    20 if smoke else 100 * _EPOCH_OF_64 if is_agm else 30 * _EPOCH_OF_40
  )
  config.log_every_steps = 10 if smoke else 25
  config.checkpoint_every_steps = 10 if smoke else _EPOCH_OF_40

  # Evaluation
  config.evaluation = {
    'batch_size': 40 if smoke else 200,
    'metrics': ('accuracy', 'macro_f1'),  # the first is the primary one
    'noise_levels': (1.0,) if smoke else (0.5, 1.0, 1.5, 2.0),
    # Units of noise: a quarter of the range of either input.
    'noise_scale': {'audio': 0.25, 'image': 0.25},
  }

  # Comparison
  config.num_seeds = 2 if smoke else 5
  return configuration.finish(config, words)
