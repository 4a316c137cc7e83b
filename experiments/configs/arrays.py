"""Your own data: arrays or a folder of media, encoders chosen by shape.

Reference: none; the encoders and the schedule are a start, not advice.
Command: python -m experiments.train
  --config=experiments/configs/arrays.py:FILE.npz
Expected: depends on the file; data_pipelines/README.md shows how to make one.

Words after the colon, separated by commas: the file (`.npz` or `.parquet`), a
folder with `train`, `validation` and `test` of either kind, or a folder of
pictures, sounds and videos with a CSV that names them; `regression` if the
labels are whole numbers to predict, not classes (other numbers need no word); a
method, a weighting, `transformer` for encoders of sequences in place of GRUs,
and `smoke` for a few steps.

A regression minimises the mean absolute error of targets that are standardised
by the training rows. Losses are logged in that unit; errors and predictions are
in the unit of the labels. The file or CSV is read when the configuration is
made, so flags can change all that follows from it:
`--config.model.encoders.audio.widths="(32,)"`. The files that a CSV names are
read once, when training begins. Each column of them has a narrow ResNet-18,
which is pretrained if `config.warm_start` says so and `width` is 64; columns of
numbers have an MLP.
"""

import functools
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging
from ml_collections import config_dict

from data_pipelines import arrays
from data_pipelines import folders
from data_pipelines import missing
from data_pipelines import own_splits
from data_pipelines import targets
from experiments.configs import _in_memory
from experiments.core import configuration
from experiments.evaluate import readouts

_SHOWN = 10  # classes that are listed
_SMALLEST = 4  # pixels per side of a LeNet's last maps, or a bit more
_FRAMES = {'name': 'Frames', 'size': 112}
# Kind of a column -> its view, and the view's standard deviation.
_VIEWS: dict[str, tuple[dict[str, Any], float]] = {
  'picture': ({**_FRAMES, 'num_frames': 1, 'policy': 'first'}, 1.0),
  'video': ({**_FRAMES, 'num_frames': 3, 'policy': 'segments'}, 1.0),
  'sound': ({'name': 'FilterBank'}, 0.5),
  'text': ({'name': 'HashedWords', 'num_features': 1024}, 0.1),
}

_GRU = {'name': 'GRU', 'width': 64}
_TRANSFORMER = {
  'name': 'Transformer',
  'width': 64,
  'num_layers': 2,
  'num_heads': 4,
  'feedforward_width': 128,
}


def encoder_for(
  shape: tuple[int, ...], transformer: bool = False
) -> dict[str, Any]:
  """The encoder for rows of a shape; for sequences a GRU or a transformer.

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
    return {**_in_memory.MLP}
  if len(shape) == 2:
    return dict(_TRANSFORMER if transformer else _GRU)
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
    if word.lower().endswith(('.npz', '.parquet', '.csv'))
    or '/' in word
    or word == '.'
  ]
  if len(paths) != 1:
    raise ValueError(
      f'The config argument {arg!r} names {len(paths)} files; expected one, as'
      ' --config=experiments/configs/arrays.py:FILE.npz (a folder with a slash,'
      ' ./FOLDER; no path has a comma). Expected:\n'
      f'{arrays.TREE}\nor\n{folders.TREE}'
    )
  config, given = configuration.begin(
    ','.join(word for word in words if word not in paths),
    sequences=('transformer',),
    targets=(targets.WORD,),
  )
  path = pathlib.Path(paths[0]).expanduser().resolve()
  is_folder = folders.find(path) is not None
  if path.is_dir() and not is_folder and not any(path.glob('train.*')):
    raise FileNotFoundError(
      f'{path} has no CSV, and no train.npz or train.parquet. Expected:\n'
      f'{arrays.TREE}\nor\n{folders.TREE}'
    )
  where = f'{path},{targets.WORD}' if given['targets'] else str(path)
  table = folders.read(where) if is_folder else arrays.read(where)
  names = table.modalities
  taken = {*readouts.NAMES, 'mask', *map(missing.entry, names)}
  for name in names:
    if name in taken or '.' in name:
      raise ValueError(
        f'{path} has a modality called {name!r}; expected a name without a dot,'
        f' and none of {sorted(taken)}, which the loader and the read-outs'
        ' take. Rename it in the file.'
      )
  num_rows = int((table.split == 'train').sum())

  # Data, and what encodes it
  config.data.name = folders.NAME if is_folder else arrays.NAME
  config.data.config = where
  if isinstance(table, folders.Table):
    _of_folder(config, table)
  else:
    _of_arrays(config, table, transformer=bool(given['sequences']))
  if table.present:
    config.data.missing_rate = dict.fromkeys(table.present, 'stored')
  config.data.batch_size = min(config.data.batch_size, num_rows)
  if table.target.is_regression:
    _of_numbers(config, table)
  else:
    _of_classes(config, table)
  _tell(_as_read(config, table))

  # Weighting
  config.weighting.update({'penalty': 3.0, 'temperature': 0.3})

  # Optimiser
  config.optimizer = {'name': 'sgd', 'learning_rate': 0.01, 'momentum': 0.9}

  # Schedule: twenty epochs, and no less than 300 steps
  config.steps = max(300, 20 * (num_rows // config.data.batch_size))
  config.log_every_steps = 20
  config.checkpoint_every_steps = 100

  smoke: dict[str, Any] = {}
  if is_folder:
    few = min(16, num_rows)
    smoke = {
      'data': {'batch_size': few},
      'model': {
        'encoders': {
          name: {'width': 4}
          for name, encoder in config.model.encoders.items()
          if encoder.name == 'ResNet18'
        }
      },
      'evaluation': {'batch_size': few, 'noise_levels': (1.0,)},
    }
  return configuration.finish(config, given, smoke)


@functools.cache
def _tell(text: str) -> None:
  print(text, file=sys.stderr)


def _as_read(
  config: config_dict.ConfigDict, table: arrays.Table | folders.Table
) -> str:
  """Says how the data were read: what was guessed should be seen."""
  label, classes = table.target
  target = 'a number to predict'
  if classes:
    sizes = [f'{name!s} {np.sum(label == i)}' for i, name in enumerate(classes)]
    more = ', ...' if len(sizes) > _SHOWN else ''
    target = f'{len(classes)} classes ({", ".join(sizes[:_SHOWN])}{more})'
  rows = ', '.join(
    f'{np.sum(table.split == split)} {split}' for split in own_splits.SPLITS
  )
  found = [f'{config.data.config}: {target}; rows: {rows}']
  for name, encoder in config.model.encoders.items():
    if isinstance(table, folders.Table):
      columns = table.modalities[name]
      what = f'{table.kinds[columns[0]]}, of {", ".join(columns)}'
    else:
      what = f'rows {list(table.modalities[name].shape[1:])}'
    found.append(f'  {name}: {what}; {encoder.name}')
  return '\n'.join(found)


def _of_classes(
  config: config_dict.ConfigDict, table: arrays.Table | folders.Table
) -> None:
  """Writes what follows from labels that are classes."""
  label, classes = table.target
  if len(classes) < 2:
    raise ValueError(
      f'{config.data.config} has labels of the classes {list(classes)};'
      ' expected at least two classes.'
    )
  taught = set(label[table.split == 'train'].tolist())
  if untaught := [c for i, c in enumerate(classes) if i not in taught]:
    logging.warning(
      '%s: no row of train is of %s.', config.data.config, untaught
    )
  config.data.classes = tuple(map(str, classes))
  config.model.num_classes = len(classes)


def _of_numbers(
  config: config_dict.ConfigDict, table: arrays.Table | folders.Table
) -> None:
  """Writes what follows from labels that are numbers."""
  taught = table.target.label[table.split == 'train']
  if np.ptp(taught) == 0:
    raise ValueError(
      f'{config.data.config} has the label {taught[0]:g} in all rows of train;'
      ' expected numbers that differ.'
    )
  config.model.num_classes = 1
  config.loss = 'absolute_error_losses'
  config.data.target_mean = float(np.mean(taught))
  config.data.target_std = float(np.std(taught))
  config.evaluation.metrics = ('mean_absolute_error', 'correlation')


def _of_arrays(
  config: config_dict.ConfigDict, table: arrays.Table, *, transformer: bool
) -> None:
  """Writes what follows from arrays, which are held in memory."""
  config.data.batch_size = 64
  config.data.standardize = True
  config.data.in_memory = True
  for name, values in table.modalities.items():
    shape = values.shape[1:]
    if len(shape) == 3 and shape[0] in (3, 4) and min(shape[1:]) > 4:
      logging.warning(
        '%s: rows of %r have %d x %d pixels of %d channels. If channels come'
        ' first, put them last: numpy.moveaxis(%s, 1, -1).',
        *(config.data.config, name, *shape, name),
      )
    if len(shape) == 1:
      for column in values.T:
        _tell_of_row_numbers(config.data.config, name, column)
  config.model.encoders = {
    name: encoder_for(values.shape[1:], transformer)
    for name, values in table.modalities.items()
  }
  config.evaluation.batch_size = 200
  # Unit of noise: the standard deviation of each feature.
  config.evaluation.noise_scale = dict.fromkeys(table.modalities, 1.0)


def _of_folder(config: config_dict.ConfigDict, table: folders.Table) -> None:
  """Writes what follows from a folder of files, decoded while training."""
  config.data.batch_size = 32
  config.data.num_threads = 4
  config.data.views, config.model.encoders = {}, {}
  config.evaluation.noise_scale = {}
  for name, columns in table.modalities.items():
    kind = table.kinds[columns[0]]
    if kind == 'number':
      view, noise = _numbers(table, columns), 1.0
    else:
      if kind == 'text':
        _tell_of_numbers(table, name)
      of_kind, noise = _VIEWS[kind]
      view = {**of_kind, 'source': name}
    config.data.views[name] = view
    config.model.encoders[name] = (
      {**_in_memory.MLP}
      if kind in ('number', 'text')
      else {'name': 'ResNet18', 'width': 16}
    )
    config.evaluation.noise_scale[name] = noise


def _tell_of_numbers(table: folders.Table, column: str) -> None:
  """Warns if most texts of a column have no letter, as in '1,299' or '$5'."""
  cells = [cell for cell in table.cells[column] if cell]
  if 2 * sum(not re.search(r'[^\W\d_]', cell) for cell in cells) > len(cells):
    logging.warning(
      '%s: the column %r is used as texts, because %r is no number, but most of'
      ' its cells have no letter. If they are numbers, write them as 1299.5,'
      ' and leave a cell empty where there is none.',
      table.path,
      column,
      next(cell for cell in cells if not targets.is_number(cell)),
    )


def _numbers(table: folders.Table, columns: Sequence[str]) -> dict[str, Any]:
  """The view of columns of numbers, standardised by the rows of train."""
  mean, std = [], []
  for column in columns:
    values = table.numbers(column)
    _tell_of_row_numbers(str(table.path), column, values)
    known = values[(table.split == 'train') & np.isfinite(values)]
    mean.append(float(np.mean(known)))
    std.append(float(np.std(known)) or 1.0)
  made = {'columns': tuple(columns), 'mean': tuple(mean), 'std': tuple(std)}
  return {'name': 'Numbers', **made}


def _tell_of_row_numbers(
  where: str, name: str, values: npt.NDArray[np.floating[Any]]
) -> None:
  """Warns of a column of numbers that may only name rows."""

  def differ(part: npt.NDArray[np.floating[Any]]) -> bool:
    return not np.any(part % 1) and len(np.unique(part)) == len(part)

  # The first rows tell of most columns, without sorting all.
  if differ(values[:100]) and differ(values):
    logging.warning(
      '%s: %r has a different whole number in each row, and is used as a'
      ' measurement. Leave it out if it only names rows, as row numbers do.',
      where,
      name,
    )
