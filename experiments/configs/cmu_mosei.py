"""CMU-MOSEI and CMU-MOSI: sentiment from text, voice and face.

Reference: `balance_benchmark`, the released settings of BalanceBenchmark
  (GeWu-Lab/BalanceBenchmark, commit 4c1482f): positive (with neutral) or
  negative by Transformers on unaligned MOSEI as stored, AdamW. Published there:
  joint training 78.99 % and macro F1 69.40, text alone 80.58, MMPareto 81.18.
  `multibench`, the late fusion of MultiBench (pliang279/MultiBench, commit
  49f9be2): the score by GRUs of width 70, 200 and 600, a hidden layer of 870,
  AdamW, absolute error. Published there, accuracy without zeros: 79.2 % on
  MOSEI, 75.2 % on MOSI. Splits are the official ones, and the last step is
  tested.
Command: python -m experiments.train
  --config=experiments/configs/cmu_mosei.py --manual_dir=FOLDER
Expected: not measured, for want of the data. With `smoke` on the sample tree,
  a minute on two CPU cores.

The argument after the colon takes words separated by commas: a setting
(`balance_benchmark` or `multibench`), the data (`mosei`, `mosei_unaligned`,
`mosi` or `mosi_unaligned`; by default those of the setting), a method of
`experiments/methods`, and `smoke` for a few steps of a narrow model on the
first 50 time steps.
"""

from typing import Any

from ml_collections import config_dict

from experiments.core import configuration

# Of 16,326 rows in batches of 32.
_EPOCH = 511

# Of the files; all others have 50.
_STEPS = {
  ('mosei_unaligned', 'audio'): 500,
  ('mosei_unaligned', 'vision'): 500,
  ('mosi_unaligned', 'audio'): 375,
  ('mosi_unaligned', 'vision'): 500,
}


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  config, words = configuration.begin(
    arg,
    setting=('balance_benchmark', 'multibench'),
    data=('mosei', 'mosei_unaligned', 'mosi', 'mosi_unaligned'),
  )
  smoke = words['smoke'] is not None
  is_regression = words['setting'] == 'multibench'
  data = words['data'] or ('mosei' if is_regression else 'mosei_unaligned')
  widths = {'audio': 200, 'text': 600, 'vision': 70}
  views: dict[str, Any] = {}
  for name in widths:
    sequence: dict[str, Any] = {'source': name}
    sequence['max_length'] = 50 if smoke else _STEPS.get((data, name), 50)
    if is_regression:
      sequence['cut_by'] = 'text'
      views[f'{name}_length'] = {'name': 'SequenceLength', **sequence}
    views[name] = {'name': 'PaddedSequence', **sequence}
  if not is_regression:
    views['label'] = {'name': 'BinaryLabel', 'zero': 'positive'}

  # Data
  config.data = {
    'name': 'cmu_mosei',
    'config': data,
    'train_fraction': 1.0,
    'batch_size': 16 if smoke else 32,
    'views': views,
    'standardize': False,
    'noise': 0.0,
    'in_memory': is_regression,
    'num_workers': 0 if smoke or is_regression else 4,
    'num_threads': 0,
  }

  # Model
  encoders: dict[str, dict[str, Any]] = {}
  for name, width in widths.items():
    if is_regression:
      encoders[name] = {'name': 'GRU', 'width': 8 if smoke else width}
    else:
      encoders[name] = {
        'name': 'Transformer',
        'width': 8 if smoke else 1024,
        'num_layers': 1 if smoke else 2,
        'num_heads': 4,
        'feedforward_width': 8 if smoke else 2048,
        'use_bias': False,
        'dtype': 'float32',
      }
  fusion: dict[str, Any] = {'name': 'ConcatFusion'}
  if is_regression:
    fusion['hidden_widths'] = (8,) if smoke else (870,)
  config.model = {
    'encoders': encoders,
    'num_classes': 1 if is_regression else 2,
    'fusion': fusion,
    # A part of the fused logits where that is one dense layer.
    'heads': 'auxiliary' if is_regression else 'share',
    'detach_heads': False,
    'checkpoint_encoders': False,
  }

  # Objectives
  if is_regression:
    config.loss, config.target = 'absolute_error_losses', 'score'
  else:
    config.loss, config.target = 'cross_entropy_losses', 'label'

  # Weighting
  config.weighting = {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}

  # Optimiser
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.01}
  if is_regression:
    config.gradient_transforms = (
      {'name': 'clip_by_global_norm', 'max_norm': 8.0},
    )
  else:
    config.gradient_transforms = ()

  # Schedule
  if is_regression:
    config.optimizer.learning_rate = 1e-2 if smoke else 1e-3
    config.steps = 20 if smoke else 100 * _EPOCH
  else:
    config.optimizer.learning_rate = {
      'name': 'exponential_decay',
      'init_value': 1e-3,
      'transition_steps': 10 * _EPOCH,
      'decay_rate': 0.1,
      'staircase': True,
    }
    config.steps = 20 if smoke else 30 * _EPOCH
  config.log_every_steps = 10
  config.checkpoint_every_steps = 10 if smoke else _EPOCH

  # Evaluation
  config.evaluation = {
    'batch_size': 16 if smoke else 64,
    # The first is the primary one.
    'metrics': (
      (
        'binary_accuracy',
        'weighted_f1',
        'binary_accuracy_with_zero',
        'seven_class_accuracy',
        'mean_absolute_error',
        'correlation',
      )
      if is_regression
      else ('accuracy', 'macro_f1')
    ),
    'noise_levels': (1.0,) if smoke else (0.5, 1.0, 1.5, 2.0),
    # Units of noise: those of the features, which are not standardised.
    'noise_scale': dict.fromkeys(widths, 1.0),
  }

  # Comparison
  config.num_seeds = 2 if smoke else 5
  return configuration.finish(config, words)
