"""TFDS builder of HTAD."""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.htad import tree
from data_pipelines.reading import builder
from data_pipelines.reading import stratified

# Seed of the division, the year in which the data set was published.
_SEED = 2021


class Builder(builder.FolderBuilder):
  """Seven tasks at home, recorded by a microphone and at the wrist.

  Every element has `audio` [36] and `accelerometer` [16] float32, `label`
  int64, and `row` int32, the row in the published table. There are no official
  splits. Ours have 60 % (training), 20 % (validation) and 20 % (test) of the
  rows of each class, drawn once with a fixed seed.
  """

  BUILDER_CONFIGS = builder.configs(features='The published table.')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Take htad.csv out of the package multiviewstacking 0.7.5 of PyPI, or the'
    f' table that the authors publish. Expected:\n{tree.TREE}'
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      {
        **{
          name: tfds.features.Tensor(shape=(len(columns),), dtype=np.float32)
          for name, columns in tree.COLUMNS.items()
        },
        'label': tfds.features.ClassLabel(names=tree.CLASSES),
        'row': tfds.features.Scalar(dtype=np.int32),
      },
      homepage='https://doi.org/10.1007/978-3-030-67835-7_17',
      license='For research and education; anything else by permission.',
    )

  def parts(self, root: pathlib.Path) -> dict[str, builder.Part]:
    """Finds the rows of each split; see `builder.FolderBuilder`."""
    table = tree.read(root)
    divided = stratified.split(table.label, seed=_SEED)
    return {
      split: builder.Part(
        {f'row {row}': row for row in rows.tolist()},
        functools.partial(_element, table),
        tree.EXPECTED[split],
      )
      for split, rows in divided.items()
    }


def _element(table: tree.Table, key: str, row: int) -> dict[str, Any]:
  del key
  return {
    **{name: values[row] for name, values in table.features.items()},
    'label': int(table.label[row]),
    'row': np.int32(row),
  }
