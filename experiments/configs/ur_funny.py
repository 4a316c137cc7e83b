"""UR-FUNNY: is a punchline humorous, from text, voice and face; three GRUs.

Reference: the late fusion of MultiBench (pliang279/MultiBench, commit 49f9be2):
  GRUs of width 512, 256 and 600, a hidden layer of 512, AdamW. Published there:
  late fusion 62.5, text alone 58.3, voice 57.2, face 57.3 %. They fit labels of
  -1 and 1 by absolute error; here two classes by cross-entropy. The batch size
  is that of their loaders, from memory. Splits are the official ones, and the
  last step is tested.
Command: python -m experiments.train
  --config=experiments/configs/ur_funny.py --manual_dir=FOLDER
Expected: not measured, for want of the data. With `smoke` on the sample tree,
  half a minute on two CPU cores.

The argument after the colon takes words separated by commas: the files (`sdk`
or `multibench`), a method of `experiments/methods`, and `smoke` for a few
steps of a narrow model.
"""

from ml_collections import config_dict

from experiments.core import configuration

# Of 7,614 rows in batches of 32.
_EPOCH = 238


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(arg, files=('sdk', 'multibench'))
  smoke = words['smoke'] is not None
  widths = {'audio': 256, 'text': 600, 'vision': 512}
  views = {}
  for name in widths:
    sequence = {'source': name, 'max_length': 50, 'cut_by': 'text'}
    views[name] = {'name': 'PaddedSequence', **sequence}
    views[f'{name}_length'] = {'name': 'SequenceLength', **sequence}

  # Data
  config.data = {
    'name': 'ur_funny',
    'config': words['files'] or 'sdk',
    'train_fraction': 1.0,
    'batch_size': 16 if smoke else 32,
    'views': views,
    'standardize': False,
    'noise': 0.0,
    'in_memory': True,
    'num_workers': 0,
    'num_threads': 0,
  }

  # Model
  config.model = {
    'encoders': {
      name: {'name': 'GRU', 'width': 8 if smoke else width}
      for name, width in widths.items()
    },
    'num_classes': 2,
    'fusion': {
      'name': 'ConcatFusion',
      'hidden_widths': (8,) if smoke else (512,),
    },
    'heads': 'auxiliary',  # a dense layer of its own for each modality
    'detach_heads': False,
    'checkpoint_encoders': False,
  }

  # Objectives
  config.loss = 'cross_entropy_losses'
  config.target = 'label'

  # Weighting
  config.weighting = {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}

  # Optimiser
  config.gradient_transforms = (
    {'name': 'clip_by_global_norm', 'max_norm': 8.0},
  )
  config.optimizer = {
    'name': 'adamw',
    'learning_rate': 1e-2 if smoke else 1e-3,
    'weight_decay': 0.01,
  }

  # Schedule
  config.steps = 20 if smoke else 100 * _EPOCH
  config.log_every_steps = 10 if smoke else 20
  config.checkpoint_every_steps = 10 if smoke else 5 * _EPOCH

  # Evaluation
  config.evaluation = {
    'batch_size': 16 if smoke else 128,
    'metrics': ('accuracy', 'macro_f1'),  # the first is the primary one
    'noise_levels': (1.0,) if smoke else (0.5, 1.0, 1.5, 2.0),
    # Units of noise: those of the features, which are not standardised.
    'noise_scale': dict.fromkeys(widths, 1.0),
  }

  # Comparison
  config.num_seeds = 2 if smoke else 5
  return configuration.finish(config, words)
