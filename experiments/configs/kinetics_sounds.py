"""Kinetics-Sounds: 31 actions that can be heard and seen, two ResNet-18.

Reference: the released settings of BalanceBenchmark (GeWu-Lab/BalanceBenchmark,
  commit 4c1482f): Kaldi filter bank, three of ten frames, AdamW. Published
  there: joint training 65.63, unimodal 55.06 and 45.31, MMPareto 74.55 %, on
  lists that are not published, with the best epoch on the test split. Here the
  lists are OGM-GE's, `validation` is carved from train by video, and the last
  step is tested. MIMO's paper has 69.6 %, which we have not checked.
Command: python -m experiments.train
  --config=experiments/configs/kinetics_sounds.py --manual_dir=FOLDER
Expected: not measured; we have neither the data nor a GPU for it. With `smoke`
  on the sample tree, one minute on two CPU cores.

Words after the colon, separated by commas: a method, a weighting, and `smoke`
for a few steps of a narrow model on small pictures.
"""

from ml_collections import config_dict

from experiments.configs import _audio_visual
from experiments.core import configuration


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg)
  _audio_visual.fill(
    config,
    _audio_visual.BALANCE_BENCHMARK,
    data_set='kinetics_sounds',
    audio='FilterBank',
    frames={'policy': 'segments', 'num_frames': 3},
    num_classes=31,
    steps_per_epoch=463,  # of 14,799 rows, as published
  )
  config.evaluation.metrics = ('accuracy', 'macro_f1', 'mean_average_precision')
  return configuration.finish(config, words, _audio_visual.SMOKE)
