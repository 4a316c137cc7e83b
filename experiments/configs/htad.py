"""HTAD: tasks at home from sound and a wrist accelerometer, two small MLPs.

Reference: the data are from Garcia-Ceja et al., doi
  10.1007/978-3-030-67835-7_17; cite them. Terms: open for research and
  education, anything else by permission. data_pipelines/htad/README.md says
  where to get the table. The set-up (late fusion, MLP (128, 64), SGD) is ours.
Command: python -m experiments.compare
  --config=experiments/configs/htad.py --manual_dir=FOLDER
Expected: test accuracy in %, mean and standard error of ten seeds; half a
  minute on two CPU cores.

  | recipe | fused | `accelerometer` | `audio` | worst missing |
  |---|---|---|---|---|
  | `joint` | 91.85 ± 0.39 | 81.41 ± 0.59 | 74.89 ± 0.35 | 55.83 ± 1.79 |
  | `sum` | 93.37 ± 0.20 | 83.08 ± 0.40 | 78.22 ± 0.30 | 63.77 ± 1.61 |
  | `mgda` | 92.28 ± 0.31 | 81.63 ± 0.25 | 76.41 ± 0.43 | 58.77 ± 1.71 |
  | `mimo_1` | 93.19 ± 0.37 | 83.59 ± 0.32 | 78.26 ± 0.40 | 60.91 ± 2.03 |
  | `mimo_3` | 93.41 ± 0.26 | 83.33 ± 0.29 | 78.55 ± 0.25 | 66.96 ± 2.08 |

  The column of a modality is its own output. The seeds share one split, so no
  error above includes the choice of its 276 test rows (a standard error of
  1.6).

Words after the colon, separated by commas: a method, a weighting, and `smoke`
for a few steps of a narrow model.
"""

from ml_collections import config_dict

from experiments.configs import _in_memory
from experiments.core import configuration

MODALITIES = ('accelerometer', 'audio')


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg)
  _in_memory.fill(
    config,
    data_set='htad',  # 832 training rows
    version='features',
    encoders=dict.fromkeys(MODALITIES, _in_memory.MLP),
    num_classes=7,
    test_batch_size=138,
  )
  config.data.standardize = True
  smoke = {
    'steps': 60,
    'data': {'batch_size': 16},
    'model': {'encoders': {name: {'widths': (8,)} for name in MODALITIES}},
    'evaluation': {'batch_size': 16},
  }
  return configuration.finish(config, words, smoke)
