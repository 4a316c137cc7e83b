"""AVE: 28 events that can be heard and seen, one per clip; two ResNet-18.

Reference: the settings of OGM-GE (GeWu-Lab/OGM-GE_CVPR2022, commit 343dc1d,
  and its history): power spectral density of ten seconds, three of ten frames,
  SGD. The code publishes no number. A later paper (arXiv 2510.21797) reports
  70.4 to 70.9 % of clips for its own method; MIMO's paper has 73.69 %, which we
  have not checked. The official validation and test splits are used, and the
  last step is tested.
Command: python -m experiments.train
  --config=experiments/configs/ave.py --manual_dir=FOLDER
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
    _audio_visual.OGM,
    data_set='ave',
    audio='Psd10s',
    frames={'policy': 'segment_starts', 'num_frames': 3},
    num_classes=28,
    steps_per_epoch=53,  # of 3,339 rows, as published
  )
  return configuration.finish(config, words, _audio_visual.SMOKE)
