"""Handwritten: six views of 2,000 digits, late fusion of one MLP a view.

Reference: the data are the UCI Multiple Features data set; the set-up (late
  fusion, MLP (128, 64), SGD) is ours, small enough for a laptop.
Command: python -m experiments.compare
  --config=experiments/configs/handwritten.py
Expected: README.md, section "What balancing does"; about one minute on two CPU
  cores.

The argument after the colon takes words separated by commas: the views (`six`,
`three` or `two`), one of the methods below, and `smoke` for a few steps of a
narrow model. `handwritten.py:two,mgda` trains two views by MGDA.
"""

from ml_collections import config_dict

from experiments import configuration

VIEWS = {
  'six': ('fac', 'fou', 'kar', 'mor', 'pix', 'zer'),
  'three': ('fou', 'mor', 'pix'),
  'two': ('fou', 'pix'),
}


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config = config_dict.ConfigDict()
  config.seed = 0

  # Methods that `compare` compares, as changes to what stands below. Joint
  # training has heads on stopped gradients, so that they can be read without
  # disturbing it.
  methods = {
    'joint': {
      'weighting': {'name': 'sum'},
      'model': {'detach_heads': True},
    },
    'sum': {'weighting': {'name': 'sum'}},
    'mgda': {'weighting': {'name': 'mgda'}},
    'mimo_1': {
      'weighting': {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}
    },
    'mimo_3': {
      'weighting': {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}
    },
  }
  config.methods = methods
  words = configuration.words(
    arg, views=tuple(VIEWS), method=tuple(methods), smoke=('smoke',)
  )
  views = words['views'] or 'six'
  smoke = words['smoke'] is not None

  # Data
  config.data = {
    'name': 'handwritten',
    'config': views,
    'train_fraction': 1.0,  # of 1,000 rows
    'batch_size': 64,
    'noise': 0.0,  # training noise, in standard deviations of each feature
    'in_memory': True,
    'num_workers': 0,
  }

  # Model
  config.model = {
    'encoders': {
      name: {'name': 'MLP', 'widths': (8,) if smoke else (128, 64)}
      for name in VIEWS[views]
    },
    'num_classes': 10,
    'fusion': 'ConcatFusion',
    'detach_heads': False,
  }

  # Weighting
  config.weighting = {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}

  # Optimiser
  config.optimizer = {'name': 'sgd', 'learning_rate': 0.05, 'momentum': 0.9}
  config.max_skipped_steps = 5  # in a row, because of non-finite gradients

  # Schedule
  config.steps = 30 if smoke else 600
  config.log_every_steps = 10 if smoke else 20
  config.checkpoint_every_steps = 10 if smoke else 100

  # Evaluation
  config.evaluation = {
    'batch_size': 200,
    'noise': 1.0,  # sensor noise, in standard deviations of each feature
  }

  # Comparison
  config.compare = tuple(methods)  # the first is the reference for time
  config.num_seeds = 2 if smoke else 10

  if words['method'] is not None:
    config = configuration.with_method(config, words['method'])
  return config
