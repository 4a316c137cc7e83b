"""The data of a run: training batches and evaluation batches."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ml_collections import config_dict

from data_pipelines import loader
from data_pipelines import sources
from data_pipelines import transforms


class Data(NamedTuple):
  """The data of one run."""

  train: Any  # iterator of batches, with get_state and set_state
  evaluation: Callable[[str], Iterable[Any]]  # split -> batches with a mask


def open_data(config: config_dict.ConfigDict, seed: int) -> Data:
  """Opens the data set that a configuration names.

  Inputs are standardised by the mean and standard deviation of the training
  rows that are used, and of those only.

  Args:
    config: with `data`, `model.encoders` (the modalities) and
      `evaluation.batch_size`.
    seed: draws the training rows where `train_fraction` is below 1, their
      order, and the training noise.

  Returns:
    The training iterator and a function from a split's name to its batches.
  """
  modalities = sorted(config.model.encoders)

  def source(split: str) -> sources.Source:
    return sources.open_source(
      config.data.name, config=config.data.config, split=split
    )

  rows = sources.subset(source('train'), config.data.train_fraction, seed)
  standardize = transforms.Standardize(*transforms.statistics(rows, modalities))
  always: tuple[Any, ...] = (standardize,)
  if config.data.in_memory:
    rows, always = sources.in_memory(rows, always), ()
  noise = config.data.noise
  random = (
    (transforms.GaussianNoise(dict.fromkeys(modalities, noise)),)
    if noise > 0
    else ()
  )
  train = loader.loader(
    rows,
    batch_size=config.data.batch_size,
    seed=seed,
    transforms=(*always, *random),
    num_workers=config.data.num_workers,
  )

  @functools.cache
  def evaluation(split: str) -> Iterable[Any]:
    rows: sources.Source = source(split)
    if config.data.in_memory:
      rows = sources.in_memory(rows, (standardize,))
    return loader.evaluation_batches(
      rows, batch_size=config.evaluation.batch_size, transforms=always
    )

  return Data(train, evaluation)
