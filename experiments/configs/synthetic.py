"""Synthetic: modalities of known Bayes accuracy, late fusion of MLPs.

Reference: the testbed (data_pipelines/synthetic/README.md) and the set-up (late
  fusion, one hidden layer of 64, SGD) are ours.
Command: python -m experiments.compare
  --config=experiments/configs/synthetic.py:imbalance_8
Expected: no accuracy above these, except by chance on 4,000 test rows (a
  standard error of at most 0.008). The table has the accuracy of the best
  classifier that sees one modality. The best that sees all has 0.902 in each
  testbed, and 0.945 in `interaction`, where the fusion has a hidden layer (64).

  | testbed | best accuracy alone |
  |---|---|
  | `balanced` | `first` 0.710, `second` 0.710 |
  | `imbalance_2` | `strong` 0.797, `weak` 0.587 |
  | `imbalance_4` | `strong` 0.848, `weak` 0.454 |
  | `imbalance_8` | `strong` 0.875, `weak` 0.341 |
  | `useless` | `strong` 0.902, `noise` 0.100 |
  | `slowness_2` | `fast` 0.710, `slow` 0.710 |
  | `slowness_4` | `fast` 0.710, `slow` 0.710 |
  | `slowness_8` | `fast` 0.710, `slow` 0.710 |
  | `nuisance_16` | `clean` 0.710, `noisy` 0.710 |
  | `three` | `strong` 0.710, `slow` 0.587, `weak` 0.415 |
  | `interaction` | `first` 0.100, `second` 0.100 |

  With ten seeds, one testbed takes less than a minute on two CPU cores. An
  example is the slow modality of `slowness_4` by its own output: joint training
  0.557, the plain sum 0.595, MGDA 0.635.

Words after the colon, separated by commas: the testbed, a method, a weighting,
and `smoke` for a few steps of a narrow model. `synthetic.py:slowness_4,mgda`
trains a fast and a slow modality by MGDA.
"""

from ml_collections import config_dict

from data_pipelines.synthetic import settings
from experiments.configs import _in_memory
from experiments.core import configuration


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg, testbed=tuple(settings.CONFIGS))
  testbed = words['testbed'] or 'balanced'
  modalities = settings.CONFIGS[testbed]
  _in_memory.fill(
    config,
    data_set='synthetic',  # 2,000 training rows, which need no standardisation
    version=testbed,
    encoders={name: {'name': 'MLP', 'widths': (64,)} for name in modalities},
    num_classes=settings.NUM_CLASSES,
    test_batch_size=1000,
  )
  if testbed == 'interaction':  # no sum of single modalities' outputs does
    config.model.fusion.hidden_widths = (64,)
  config.evaluation.metrics = ('accuracy',)
  narrow = {name: {'widths': (8,)} for name in modalities}
  smoke = {'steps': 30, 'model': {'encoders': narrow}}
  return configuration.finish(config, words, smoke)
