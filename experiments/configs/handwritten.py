"""Handwritten: six views of 2,000 digits, late fusion of one MLP per view.

Reference: the data are the UCI Multiple Features data set; the set-up (late
  fusion, MLP (128, 64), SGD) is ours, small enough for a laptop.
Command: python -m experiments.compare
  --config=experiments/configs/handwritten.py
Expected: experiments/reports/README.md, "Nine recipes on six views"; about a
  minute and a half on two CPU cores.

Words after the colon, separated by commas: the views (`six`, `three` or `two`),
a method, a weighting, and `smoke` for a few steps of a narrow model. `two,mgda`
trains two views by MGDA.
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

  # Data: 1,000 training rows
  config.data.name = 'handwritten'
  config.data.config = views
  config.data.batch_size = 64
  config.data.standardize = True
  config.data.in_memory = True

  # Model
  config.model.encoders = {
    name: {'name': 'MLP', 'widths': (128, 64)} for name in VIEWS[views]
  }
  config.model.num_classes = 10

  # Weighting
  config.weighting.update({'penalty': 3.0, 'temperature': 0.3})

  # Optimiser
  config.optimizer = {'name': 'sgd', 'learning_rate': 0.05, 'momentum': 0.9}

  # Schedule
  config.steps = 600
  config.log_every_steps = 20
  config.checkpoint_every_steps = 100

  # Evaluation
  config.evaluation.batch_size = 200
  config.evaluation.metrics = ('accuracy',)
  # Unit of noise: the standard deviation of each feature.
  config.evaluation.noise_scale = dict.fromkeys(VIEWS[views], 1.0)

  # Comparison
  config.num_seeds = 10

  narrow = {name: {'widths': (8,)} for name in VIEWS[views]}
  smoke = {'steps': 30, 'model': {'encoders': narrow}}
  return configuration.finish(config, words, smoke)
