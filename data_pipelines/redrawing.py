"""Redraws the splits of a data set for each seed.

If all seeds share the same rows, a comparison over seeds shows how much
training varies. If each seed has its own rows, it shows how much results vary.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines import arrays
from data_pipelines import folders
from data_pipelines import own_splits
from data_pipelines import sources
from data_pipelines.reading import stratified


def splits(
  name: str,
  *,
  config: str | None,
  seed: int,
  target: str = 'label',
  group: str = 'group',
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Mapping[str, sources.Source]:
  """Draws training, validation and test rows of a data set.

  A synthetic data set generates new rows, by its builder's `drawn(config,
  split, seed)`. The rows of any other data set are divided again: into splits
  of nearly the same sizes, with the same share of each class in every split,
  and with all rows of one group in one split. All rows are held in memory.

  Args:
    name: See `sources.open_source`.
    config: See `sources.open_source`.
    seed: At least 0; each seed gives other splits.
    target: The entry whose classes are divided evenly. If it does not hold
      whole numbers, rows are divided without regard to it.
    group: The entry that says which rows belong together. If elements have no
      such entry, each row is a group of its own.
    data_dir: See `sources.open_source`.
    manual_dir: See `sources.open_source`.

  Returns:
    Split -> source.

  Raises:
    FileNotFoundError: as `sources.open_source`.
    ValueError: as `sources.open_source`, or if a split would lack a class.

  Examples:
    >>> drawn = splits('synthetic', config='balanced', seed=3)
    >>> {split: len(source) for split, source in drawn.items()}
    {'train': 2000, 'validation': 1000, 'test': 4000}
  """
  is_own = name in (arrays.NAME, folders.NAME)
  builder: Any = None if is_own else sources.builder_of(name, config)
  if hasattr(builder, 'drawn'):
    return {
      split: sources.InMemory(builder.drawn(config, split, seed))
      for split in own_splits.SPLITS
    }
  stored = {
    split: sources.open_source(
      name,
      config=config,
      split=split,
      data_dir=data_dir,
      manual_dir=manual_dir,
    )
    for split in own_splits.SPLITS
  }
  rows = [one[i] for one in stored.values() for i in range(len(one))]
  labels = np.array([row[target] for row in rows])
  if labels.ndim > 1 or not np.issubdtype(labels.dtype, np.integer):
    labels = np.zeros(len(rows), int)
  groups = np.array([row[group] for row in rows]) if group in rows[0] else None
  shares = {split: len(one) / len(rows) for split, one in stored.items()}
  parts = stratified.split(labels, groups, shares, seed)
  return {split: [rows[i] for i in parts[split]] for split in own_splits.SPLITS}
