"""Arrays: a file of your own, late fusion, encoders chosen by shape.

Reference: none; the encoders and the schedule are a beginning, not an advice.
Command: python -m experiments.train
  --config=experiments/configs/arrays.py:FILE.npz
Expected: depends on the file; data_pipelines/README.md shows how to make one.

Words after the colon, separated by commas: the file (`.npz` or `.parquet`) or a
folder with `train.npz`, `validation.npz` and `test.npz`; a method, a weighting,
and `smoke` for a few steps. The file is read when the configuration is made, so
that all it says is there to be changed by flags:
`--config.model.encoders.audio.widths="(32,)"`.
"""

import math
import pathlib
from typing import Any

from ml_collections import config_dict

from data_pipelines import arrays
from experiments.core import configuration

_SMALLEST = 4  # pixels a side of the maps that a LeNet leaves, or a bit more


def encoder_for(shape: tuple[int, ...]) -> dict[str, Any]:
  """The encoder of rows of a shape.

  Examples:
    >>> encoder_for((16,))
    {'name': 'MLP', 'widths': (128, 64)}
    >>> encoder_for((50, 35))
    {'name': 'GRU', 'width': 64}
    >>> encoder_for((28, 28, 1))
    {'name': 'LeNet', 'base_width': 8, 'num_blocks': 2}
    >>> encoder_for((3, 28, 28, 1))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: Expected rows [d], [time, d] or [height, width, channels], ...
  """
  if len(shape) == 1:
    return {'name': 'MLP', 'widths': (128, 64)}
  if len(shape) == 2:
    return {'name': 'GRU', 'width': 64}
  if len(shape) == 3 and min(shape[:2]) >= 2:
    blocks = max(1, int(math.log2(min(shape[:2]) / _SMALLEST)))
    return {'name': 'LeNet', 'base_width': 8, 'num_blocks': blocks}
  raise ValueError(
    'Expected rows [d], [time, d] or [height, width, channels], with at least'
    f' two pixels a side; got {shape}. Write a configuration for others.'
  )


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The configuration; `arg` is described in the module's docstring."""
  words = arg.split(',')
  paths = [
    word
    for word in words
    if word.endswith(('.npz', '.parquet')) or '/' in word or word == '.'
  ]
  if len(paths) != 1:
    raise ValueError(
      f'The config argument {arg!r} names {len(paths)} files; expected one, as'
      ' --config=experiments/configs/arrays.py:FILE.npz (a folder with a slash,'
      f' ./FOLDER). Expected:\n{arrays.TREE}'
    )
  path = pathlib.Path(paths[0]).expanduser().resolve()
  table = arrays.read(path)
  rest = ','.join(word for word in words if word != paths[0])
  config, given = configuration.begin(rest)
  num_rows = int((table.split == 'train').sum())

  # Data
  config.data.name = arrays.NAME
  config.data.config = str(path)
  config.data.batch_size = min(64, num_rows)
  config.data.standardize = True
  config.data.in_memory = True

  # Model
  config.model.encoders = {
    name: encoder_for(values.shape[1:])
    for name, values in table.modalities.items()
  }
  config.model.num_classes = len(table.classes)

  # Weighting
  config.weighting.update({'penalty': 3.0, 'temperature': 0.3})

  # Optimiser
  config.optimizer = {'name': 'sgd', 'learning_rate': 0.01, 'momentum': 0.9}

  # Schedule: twenty epochs, and no less than 300 steps
  config.steps = max(300, 20 * (num_rows // config.data.batch_size))
  config.log_every_steps = 20
  config.checkpoint_every_steps = 100

  # Evaluation
  config.evaluation.batch_size = 200
  # Unit of noise: the standard deviation of each feature.
  config.evaluation.noise_scale = dict.fromkeys(table.modalities, 1.0)
  return configuration.finish(config, given)
