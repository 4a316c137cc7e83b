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

from experiments.configs import _in_memory
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
  names = VIEWS[views]
  _in_memory.fill(
    config,
    data_set='handwritten',  # 1,000 training rows
    version=views,
    encoders=dict.fromkeys(names, _in_memory.MLP),
    num_classes=10,
    test_batch_size=200,
  )
  config.data.standardize = True
  config.evaluation.metrics = ('accuracy',)
  narrow = {name: {'widths': (8,)} for name in names}
  smoke = {'steps': 30, 'model': {'encoders': narrow}}
  return configuration.finish(config, words, smoke)
