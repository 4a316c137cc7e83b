"""The data of a run: training batches and evaluation batches."""

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from data_pipelines import folders
from data_pipelines import loader
from data_pipelines import missing
from data_pipelines import redrawing
from data_pipelines import sources
from data_pipelines import targets
from data_pipelines import views
from data_pipelines.views import transforms
from experiments.core import fingerprints as fingerprints_lib
from experiments.core import named
from experiments.core import presence as presence_lib
from experiments.evaluate import units

# Losses that are NaN for a row without a label. Others may use such rows.
_NEEDING_LABELS = ('cross_entropy_losses', 'absolute_error_losses')

Batch = Mapping[str, Any]


class Data(NamedTuple):
  """The data of one run."""

  train: Any  # iterator of batches, with get_state and set_state
  evaluation: Callable[[str], Iterable[Any]]  # split -> batches with a mask
  steps_per_epoch: int  # batches in which each training row is seen once
  # split -> digest of its stored rows; of training, of those that are used
  fingerprints: Callable[[], dict[str, str]]
  # that standardise inputs; None if they are not standardised
  statistics: transforms.Statistics | None = None


def make_views(
  config: config_dict.ConfigDict,
) -> tuple[dict[str, views.View], tuple[str, ...]]:
  """The views of `config.data.views`, and the entries to keep beside them."""
  made = {
    name: named.make(views, view)
    for name, view in config.data.views.to_dict().items()
  }
  keep = () if config.target in made else (config.target,)
  if config.data.get('name') == folders.NAME:  # there may be no data set
    keep = (*keep, 'row')  # as arrays have
  return made, keep


def finish(config: config_dict.ConfigDict) -> Callable[[Batch], Batch]:
  """A function that finishes a batch on the device, before the model.

  The loader leaves to the device what is cheap there and would make batches
  large: pictures are sent as bytes and normalised here. Call the function once
  per batch, inside the compiled program; the batch may have any leading axes.
  It changes the targets of a regression, and the entries of each
  `views.DeviceView`, unless there is training noise: noise is in the units of
  finished entries, so that the loader finishes them.

  Examples:
    >>> import jax.numpy as jnp
    >>> frames = {'name': 'Frames', 'num_frames': 1, 'policy': 'first'}
    >>> config = config_dict.ConfigDict(
    ...   {'data': {'views': {'face': frames}, 'noise': 0}, 'target': 'label'}
    ... )
    >>> batch = {'face': jnp.full((4, 1, 224, 224, 3), 255, jnp.uint8)}
    >>> finish(config)(batch)['face'][0, 0, 0, 0].tolist()
    [2.249, 2.429, 2.640]
  """
  on_device: dict[str, Callable[[Any], Any]] = {}
  if not config.data.noise > 0:
    on_device = {
      name: view.on_device
      for name, view in make_views(config)[0].items()
      if isinstance(view, views.DeviceView)
    }
  on_device[config.target] = units.Units.of(config).learned

  def finish_batch(batch: Batch) -> Batch:
    return {
      name: on_device[name](value) if name in on_device else value
      for name, value in batch.items()
    }

  return finish_batch


def open_data(
  config: config_dict.ConfigDict,
  seed: int,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Data:
  """Opens the data set that a configuration names.

  The views of `config.data.views`, each a `name` and arguments in
  `data_pipelines.views`, turn stored elements into what the model takes.
  Without views, elements stay as they are stored.

  Args:
    config: with `data`, `target`, `model.encoders` (the modalities) and
      `evaluation.batch_size`. With `data.standardize`, inputs are standardised
      by the mean and standard deviation of the training rows that are used, as
      views make them in evaluation. With `data.noise` above 0, training inputs
      get noise of that standard deviation. With `data.missing_rate`, training
      rows lack modalities, and batches have `<modality>_present` [batch]; with
      `evaluation.missing`, so do rows of the other splits. With
      `data.in_memory`, rows without a label are left out of all splits, and
      counted in a message: their label is NaN or, with
      `loss='cross_entropy_losses'`, negative. A loss of your own gets them.
    seed: draws the rows of all splits (with `data.redraw`), the training rows
      (with `train_fraction` below 1), their order, which rows lack what, the
      views' random choices, and the training noise.
    manual_dir: the folder with the user's files, read when the data set is
      prepared.

  Returns:
    The data, whose batches of all splits are for `finish` to complete. With
    several processes, each trains on its own rows of a batch, which together
    are the rows that a single process would see, and evaluates on all rows.

  Raises:
    ValueError: if elements lack the target or a modality, random views are to
      be held in memory, missing rates are invalid or not 'stored' for a view of
      what some elements lack, a split in memory has no row with a label, or the
      model has too few classes.
  """
  _check_classes(config, config.data.name, len(config.data.get('classes', ())))
  splits = _open_splits(config, seed, manual_dir)
  train, num_rows, statistics = _training(splits)

  @functools.cache
  def evaluation(split: str) -> Iterable[Any]:
    return _evaluation(splits, split, statistics)

  def fingerprints() -> dict[str, str]:
    found = {}
    for split in ('train', 'validation', 'test'):
      with contextlib.suppress(ValueError):  # a builder may lack a split
        found[split] = fingerprints_lib.of(splits.source(split))
    return found

  steps_per_epoch = max(1, num_rows // config.data.batch_size)
  return Data(train, evaluation, steps_per_epoch, fingerprints, statistics)


class _Splits(NamedTuple):
  """The rows of a data set's splits, and the views of them."""

  config: config_dict.ConfigDict
  seed: int
  stored: Callable[[str], sources.Source]  # split -> rows as they are stored
  made: Mapping[str, views.View]
  presence: Mapping[str, presence_lib.Presence]  # of modalities among them
  keep: tuple[str, ...]  # entries beside the views
  rates: Mapping[str, Any]  # as of `presence.missing_rates`

  def source(self, split: str) -> sources.Source:
    """The used rows of a split, less the modalities that they are to lack."""
    rows = self.stored(split)
    if drawn := self._drawn(split):
      # Each split has its own draws.
      draw = (self.seed, zlib.crc32(split.encode()))
      rows = missing.incomplete(rows, drawn, draw)
    # Evaluation of the training split, too, is on the used rows only.
    fraction = self.config.data.train_fraction if split == 'train' else 1
    return sources.subset(rows, fraction, self.seed)

  def viewed(self, kind: Any, split: str) -> tuple[Any, ...]:
    """The transform of a kind that applies the views, if there are any."""
    if not self.made:
      return ()
    drawn = self._drawn(split).items()
    keep = (missing.entry(name) for name, rate in drawn if rate > 0)
    stored = {
      missing.entry(name): one
      for name, one in self.presence.items()
      if self.rates.get(name) == presence_lib.STORED
    }
    return (kind({**self.made, **stored}, (*self.keep, *keep)),)

  def _drawn(self, split: str) -> dict[str, Any]:
    """The rates at which random rows of a split lack modalities, if any do."""
    if split != 'train' and not self.config.evaluation.missing:
      return {}
    rates = {
      name: 0.0 if rate == presence_lib.STORED else rate
      for name, rate in self.rates.items()
    }
    return rates if any(rates.values()) else {}


def _open_splits(
  config: config_dict.ConfigDict,
  seed: int,
  manual_dir: str | os.PathLike[str] | None,
) -> _Splits:
  """Opens the splits of a data set, and makes its views."""
  settings = config.data
  made, keep = make_views(config)
  presence = {
    name: presence_lib.Presence(name, view)
    for name, view in made.items()
    if name in config.model.encoders
  }
  drawn = [
    name for name, view in made.items() if isinstance(view, views.RANDOM)
  ]
  if drawn and settings.in_memory:
    raise ValueError(
      f'config.data.in_memory makes each view once, but {drawn} are drawn anew'
      ' in each epoch of training. Set it to False.'
    )
  if settings.noise > 0:  # in the units of finished entries; see `finish`
    made = {
      name: views.Finished(view) if isinstance(view, views.DeviceView) else view
      for name, view in made.items()
    }
  rates = presence_lib.missing_rates(config)
  where = {'config': settings.config, 'manual_dir': manual_dir}
  if settings.redraw:
    redrawn = redrawing.splits(
      settings.name, seed=seed, target=config.target, **where
    )
    stored: Callable[[str], sources.Source] = redrawn.__getitem__
  else:

    def stored(split: str) -> sources.Source:
      return sources.open_source(settings.name, split=split, **where)

  return _Splits(config, seed, stored, made, presence, keep, rates)


def _training(
  splits: _Splits,
) -> tuple[Any, int, transforms.Statistics | None]:
  """The training iterator, its number of rows, and statistics of inputs."""
  config, settings = splits.config, splits.config.data
  modalities = sorted(config.model.encoders)
  always = splits.viewed(views.EvaluationViews, 'train')
  random = splits.viewed(views.TrainingViews, 'train')
  rows = splits.source('train')
  wanted = {config.target, *modalities} - splits.made.keys()
  if lacks := sorted(wanted - rows[0].keys()):
    raise ValueError(
      f'{settings.name} has no {lacks}, which config.target or'
      f' config.model.encoders names; its elements have {sorted(rows[0])}.'
    )
  presence_lib.check(splits.presence, splits.rates, rows[0])
  if settings.in_memory:
    rows = _labelled(config, sources.in_memory(rows, always), 'train')
    always, random = (), ()
  statistics = None
  if settings.standardize:
    statistics = transforms.statistics(rows, modalities, always)
    standardize = (transforms.Standardize(*statistics),)
    if settings.in_memory:
      rows = sources.in_memory(rows, standardize)
    else:
      random = (*random, *standardize)
  if settings.noise > 0:
    noise = dict.fromkeys(modalities, settings.noise)
    random = (*random, transforms.GaussianNoise(noise))
  options = {
    'batch_size': settings.batch_size // jax.process_count(),
    'seed': splits.seed,
    'shard_index': jax.process_index(),
    'shard_count': jax.process_count(),
    'num_workers': settings.num_workers,
    'num_threads': settings.num_threads,
  }
  train = loader.loader(rows, transforms=random, **options)
  return train, len(rows), statistics


def _evaluation(
  splits: _Splits, split: str, statistics: transforms.Statistics | None
) -> Iterable[Any]:
  """The evaluation batches of a split."""
  config, settings = splits.config, splits.config.data
  rows: sources.Source = splits.source(split)
  chain = splits.viewed(views.EvaluationViews, split)
  if statistics is not None:
    chain = (*chain, transforms.Standardize(*statistics))
  if settings.in_memory:
    rows = _labelled(config, sources.in_memory(rows, chain), split)
    chain = ()
  batches = loader.evaluation_batches(
    rows,
    batch_size=config.evaluation.batch_size,
    transforms=chain,
    num_workers=settings.num_workers,
    num_threads=settings.num_threads,
  )
  return tuple(batches) if settings.in_memory else batches


def _labelled(
  config: config_dict.ConfigDict, rows: sources.InMemory, split: str
) -> sources.InMemory:
  """Leaves out a split's rows without a label, if the loss needs labels."""
  if config.loss not in _NEEDING_LABELS:
    return rows
  has = targets.given(
    rows.arrays[config.target],
    has_classes=config.loss == 'cross_entropy_losses',
  )
  where = f'{config.data.name}, {split}'
  if not has.any():
    raise ValueError(
      f'{where}: no row has a {config.target!r}; expected some that do.'
    )
  targets.tell(where, has)
  if not has.all():
    rows = sources.InMemory({k: v[has] for k, v in rows.arrays.items()})
  highest = np.max(rows.arrays[config.target], initial=-1)
  _check_classes(config, where, highest + 1)
  return rows


def _check_classes(
  config: config_dict.ConfigDict, where: str, number: float
) -> None:
  """Refuses a model with too few classes, whose losses would be NaN."""
  if config.loss != 'cross_entropy_losses':
    return
  if (given := config.model.get('num_classes', number)) < number:
    raise ValueError(
      f'{where} has {int(number)} classes, and config.model.num_classes is'
      f' {given}; expected at least as many.'
    )


def open_all(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None = None,
) -> list[Data]:
  """Opens the data of all seeds of a configuration."""
  seeds = range(config.seed, config.seed + config.num_seeds)
  return [open_data(config, seed, manual_dir) for seed in seeds]
