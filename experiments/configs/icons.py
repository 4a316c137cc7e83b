"""Icons: 24 categories from a picture and the words of its tags, two encoders.

Reference: the data are Tabler Icons (MIT), data_pipelines/icons/README.md; they
  come with the project. The set-up (late fusion, three convolutions for
  pictures, MLP (128, 64) for words, SGD) is ours.
Command: python -m experiments.train --config=experiments/configs/icons.py:sum
Expected: test accuracy in %, mean and standard error of three seeds, by
  experiments.train; less than a minute per run on two CPU cores. The seeds
  share one split, so no error includes the choice of its 984 test rows (a
  standard error of 1.6).

  | recipe | fused | `picture` | `tags` |
  |---|---|---|---|
  | one modality alone | | 25.5 ± 1.9 | 54.0 ± 0.3 |
  | `joint` | 39.3 ± 0.9 | 26.5 ± 0.4 | 44.6 ± 1.1 |
  | `sum` | 50.2 ± 1.4 | 27.1 ± 1.4 | 54.7 ± 0.1 |
  | `mgda` | 47.5 ± 0.6 | 23.5 ± 0.6 | 54.2 ± 0.3 |
  | `mimo_3` | 52.4 ± 0.6 | 22.0 ± 0.6 | 52.9 ± 0.5 |

  So the data set is imbalanced: the model memorises the pictures quickly, and
  the words' encoder stays 9 points below what it reaches alone. Balancing mends
  the encoder, and most of the fused output, which is nowhere better than words
  alone. Nothing was tuned.

  `small`, which the study uses, has pictures of 12 x 12 means, and two narrow
  convolutions for them; experiments/reports/README.md, "Real data".

Words after the colon, separated by commas: `small`, a method, a weighting, and
`smoke` for a few steps of a narrow model.
"""

from ml_collections import config_dict

from experiments.configs import _in_memory
from experiments.core import configuration


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg, size=('small',))
  is_small = bool(words['size'])
  _in_memory.fill(
    config,
    data_set='icons',  # 3,001 training rows
    version='outline',
    encoders={
      'picture': {'name': 'LeNet', 'base_width': 8, 'num_blocks': 3},
      'tags': _in_memory.MLP,
    },
    num_classes=24,
    test_batch_size=166,
  )
  config.data.views = {
    'picture': {'name': 'Scaled', 'source': 'picture', 'divisor': 255.0},
    'tags': {'name': 'Scaled', 'source': 'tags', 'divisor': 1.0},
  }
  decay = {'name': 'add_decayed_weights', 'weight_decay': 1e-3}
  config.gradient_transforms = (decay,)
  # Units of noise: about the deviation of a pixel, and of a word.
  config.evaluation.noise_scale = {'picture': 0.3, 'tags': 0.1}
  config.num_seeds = 5
  if is_small:  # 3 x 3 x 8 features, and as many of words
    pooled = {'name': 'Pooled', 'block': 2, 'as_row': False}
    config.data.views.picture.update(pooled)
    config.model.encoders.picture.update({'base_width': 4, 'num_blocks': 2})
    config.model.encoders.tags.widths = (128, 72)
  smoke = {
    'model': {
      'encoders': {'picture': {'base_width': 2}, 'tags': {'widths': (8,)}}
    },
    'evaluation': {'noise_levels': (1.0,)},
  }
  return configuration.finish(config, words, smoke)
