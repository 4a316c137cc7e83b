"""UR-FUNNY: is a punchline humorous, from text, voice and face; three GRUs.

Reference: the late fusion of MultiBench (pliang279/MultiBench, commit 49f9be2):
  GRUs of width 512, 256 and 600, a hidden layer of 512, AdamW. Published there:
  late fusion 62.5, text alone 58.3, voice 57.2, face 57.3 %. They fit labels of
  -1 and 1 by absolute error; here there are two classes, by cross-entropy. The
  batch size is that of their loaders, from memory. Splits are the official
  ones, and the last step is tested. `as_agm` trains as long as AGM's authors do
  (lihongcs/AGM, issue 10): 800 epochs, alpha 4.0 for the recipe `agm`; their
  encoders are Transformers. MIMO's paper has 64.54 %, which we have not
  checked.
Command: python -m experiments.train
  --config=experiments/configs/ur_funny.py --manual_dir=FOLDER
Expected: not measured; we do not have the data. With `smoke` on the sample
  tree, half a minute on two CPU cores.

Words after the colon, separated by commas: the files (`sdk` or `multibench`),
the length `as_agm`, a method, a weighting, and `smoke` for a few steps of a
narrow model.
"""

from ml_collections import config_dict

from experiments.configs import _as_agm
from experiments.core import configuration

# Of 7,614 rows in batches of 32.
_EPOCH = 238


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(
    arg, files=('sdk', 'multibench'), length=('as_agm',)
  )
  widths = {'audio': 256, 'text': 600, 'vision': 512}

  # Data
  config.data.name = 'ur_funny'
  config.data.config = words['files'] or 'sdk'
  config.data.batch_size = 32
  config.data.in_memory = True
  for name in widths:
    sequence = {'source': name, 'max_length': 50, 'cut_by': 'text'}
    config.data.views[name] = {'name': 'PaddedSequence', **sequence}
    length = {'name': 'SequenceLength', **sequence}
    config.data.views[f'{name}_length'] = length

  # Model
  config.model.encoders = {
    name: {'name': 'GRU', 'width': width} for name, width in widths.items()
  }
  config.model.num_classes = 2
  config.model.fusion.hidden_widths = (512,)
  config.model.heads = 'auxiliary'  # a dense layer of its own for each modality

  # Optimiser
  clip = {'name': 'clip_by_global_norm', 'max_norm': 8.0}
  config.gradient_transforms = (clip,)
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.01}
  config.optimizer.learning_rate = 1e-3

  # Schedule
  config.steps = 100 * _EPOCH
  config.log_every_steps = 20
  config.checkpoint_every_steps = 5 * _EPOCH
  if words['length']:
    _as_agm.lengthen(config, epochs=800, alpha=4.0, steps_per_epoch=_EPOCH)

  # Evaluation
  config.evaluation.batch_size = 128
  # Units of noise: those of the features, which are not standardised.
  config.evaluation.noise_scale = dict.fromkeys(widths, 1.0)

  smoke = {
    'data': {'batch_size': 16},
    'model': {
      'encoders': {name: {'width': 8} for name in widths},
      'fusion': {'hidden_widths': (8,)},
    },
    'optimizer': {'learning_rate': 1e-2},
    'evaluation': {'batch_size': 16, 'noise_levels': (1.0,)},
  }
  return configuration.finish(config, words, smoke)
