"""Handwritten: six views of 2,000 digits, late fusion of one MLP a view.

Reference: the data are the UCI Multiple Features data set; the set-up (late
  fusion, MLP (128, 64), SGD) is ours, small enough for a laptop.
Command: python -m experiments.compare
  --config=experiments/configs/handwritten.py
Expected: experiments/reports/README.md, "Five methods on six views"; about one
  minute on two CPU cores.

The argument after the colon takes words separated by commas: the views (`six`,
`three` or `two`), a method of `experiments/methods`, and `smoke` for a few
steps of a narrow model. `handwritten.py:two,mgda` trains two views by MGDA.
"""

from ml_collections import config_dict

from experiments.core import configuration

VIEWS = {
  'six': ('fac', 'fou', 'kar', 'mor', 'pix', 'zer'),
  'three': ('fou', 'mor', 'pix'),
  'two': ('fou', 'pix'),
}


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg, views=tuple(VIEWS))
  views = words['views'] or 'six'
  smoke = words['smoke'] is not None

  # Data
  config.data = {
    'name': 'handwritten',
    'config': views,
    'train_fraction': 1.0,  # of 1,000 rows
    'batch_size': 64,
    'views': {},  # as stored
    'standardize': True,
    'noise': 0.0,  # training noise, in standard deviations of each feature
    'in_memory': True,
    'num_workers': 0,
    'num_threads': 0,
  }

  # Model
  config.model = {
    'encoders': {
      name: {'name': 'MLP', 'widths': (8,) if smoke else (128, 64)}
      for name in VIEWS[views]
    },
    'num_classes': 10,
    'fusion': {'name': 'ConcatFusion'},
    'detach_heads': False,
    'checkpoint_encoders': False,
  }

  # Objectives
  config.loss = 'cross_entropy_losses'
  config.target = 'label'

  # Weighting
  config.weighting = {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}

  # Optimiser
  config.gradient_transforms = ()
  config.optimizer = {'name': 'sgd', 'learning_rate': 0.05, 'momentum': 0.9}

  # Schedule
  config.steps = 30 if smoke else 600
  config.log_every_steps = 10 if smoke else 20
  config.checkpoint_every_steps = 10 if smoke else 100

  # Evaluation
  config.evaluation = {
    'batch_size': 200,
    'metrics': ('accuracy',),  # the first is the primary one
    'noise_levels': (0.5, 1.0, 1.5, 2.0),
    # Unit of noise: the standard deviation of each feature.
    'noise_scale': dict.fromkeys(VIEWS[views], 1.0),
  }

  # Comparison
  config.num_seeds = 2 if smoke else 10
  return configuration.finish(config, words)
