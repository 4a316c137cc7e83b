"""CMU-MOSEI and CMU-MOSI: sentiment from text, voice and face.

Reference: two settings. `balance_benchmark` has the released settings of
  BalanceBenchmark (GeWu-Lab/BalanceBenchmark, commit 4c1482f): positive (with
  neutral) or negative, by Transformers on unaligned MOSEI as stored, AdamW.
  Published there: joint training 78.99 % and macro F1 69.40, text alone 80.58,
  MMPareto 81.18. `multibench` is the late fusion of MultiBench
  (pliang279/MultiBench, commit 49f9be2): the score, by GRUs of width 70, 200
  and 600, a hidden layer of 870, AdamW, absolute error. Published there,
  accuracy without zeros: 79.2 % on MOSEI, 75.2 % on MOSI. Splits are the
  official ones, and the last step is tested.
Command: python -m experiments.train
  --config=experiments/configs/cmu_mosei.py --manual_dir=FOLDER
Expected: not measured; we do not have the data. With `smoke` on the sample
  tree, a minute on two CPU cores.

Words after the colon, separated by commas: a setting (`balance_benchmark` or
`multibench`), the data (`mosei`, `mosei_unaligned`, `mosi` or `mosi_unaligned`;
by default those of the setting), a method, a weighting, and `smoke` for a few
steps of a narrow model on the first 50 time steps.
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
  is_regression = words['setting'] == 'multibench'
  widths = {'audio': 200, 'text': 600, 'vision': 70}

  # Data
  data = words['data'] or ('mosei' if is_regression else 'mosei_unaligned')
  config.data.name = 'cmu_mosei'
  config.data.config = data
  config.data.batch_size = 32
  config.data.in_memory = is_regression
  config.data.num_workers = 0 if is_regression else 4
  for name in widths:
    sequence = {'source': name, 'max_length': _STEPS.get((data, name), 50)}
    if is_regression:
      sequence['cut_by'] = 'text'
      length = {'name': 'SequenceLength', **sequence}
      config.data.views[f'{name}_length'] = length
    config.data.views[name] = {'name': 'PaddedSequence', **sequence}
  if not is_regression:
    config.data.views.label = {'name': 'BinaryLabel', 'zero': 'positive'}

  # Model and objectives
  if is_regression:
    config.model.encoders = {
      name: {'name': 'GRU', 'width': width} for name, width in widths.items()
    }
    config.model.num_classes = 1
    config.model.fusion.hidden_widths = (870,)
    config.model.heads = 'auxiliary'
    config.loss = 'absolute_error_losses'
    config.target = 'score'
  else:
    config.model.encoders = {
      name: {
        'name': 'Transformer',
        'width': 1024,
        'num_layers': 2,
        'num_heads': 4,
        'feedforward_width': 2048,
        'use_bias': False,
        'dtype': 'float32',
      }
      for name in widths
    }
    config.model.num_classes = 2
    config.model.heads = 'share'  # a part of the fused logits

  # Optimiser
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.01}
  if is_regression:
    clip = {'name': 'clip_by_global_norm', 'max_norm': 8.0}
    config.gradient_transforms = (clip,)
    config.optimizer.learning_rate = 1e-3
  else:
    config.optimizer.learning_rate = {
      'name': 'exponential_decay',
      'init_value': 1e-3,
      'transition_steps': 10 * _EPOCH,
      'decay_rate': 0.1,
      'staircase': True,
    }

  # Schedule
  config.steps = (100 if is_regression else 30) * _EPOCH
  config.checkpoint_every_steps = _EPOCH

  # Evaluation
  if is_regression:
    config.evaluation.metrics = (
      'binary_accuracy',
      'weighted_f1',
      'binary_accuracy_with_zero',
      'seven_class_accuracy',
      'mean_absolute_error',
      'correlation',
    )
  # Units of noise: those of the features, which are not standardised.
  config.evaluation.noise_scale = dict.fromkeys(widths, 1.0)

  # All sequences are cut to 50 steps, and encoders are narrow.
  sequences = [name for name in config.data.views if name != 'label']
  narrow = {'width': 8}
  smoke: dict[str, Any] = {
    'data': {'batch_size': 16},
    'model': {'encoders': {name: narrow for name in widths}},
    'evaluation': {'batch_size': 16, 'noise_levels': (1.0,)},
  }
  smoke['data']['views'] = {name: {'max_length': 50} for name in sequences}
  if is_regression:
    smoke['model']['fusion'] = {'hidden_widths': (8,)}
    smoke['optimizer'] = {'learning_rate': 1e-2}
  else:
    narrow |= {'num_layers': 1, 'feedforward_width': 8}
  return configuration.finish(config, words, smoke)
