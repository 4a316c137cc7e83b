"""A trained model's inputs, kept in its run, so it needs no data set."""

import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines.views import transforms
from experiments.core import data
from experiments.core import runs

_NAME = 'signature.json'


class Signature(NamedTuple):
  """What is known of a model's training data without the data set."""

  row: dict[str, jax.ShapeDtypeStruct]  # the entries of a training row
  steps_per_epoch: int
  statistics: transforms.Statistics | None  # that standardised the rows

  def batch(self, size: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """The entries of a batch, in the types in which JAX takes them."""
    return {
      name: jax.ShapeDtypeStruct(
        (size, *of_row.shape), jax.dtypes.canonicalize_dtype(of_row.dtype)
      )
      for name, of_row in self.row.items()
    }


def of(inputs: data.Data) -> Signature:
  """The signature of opened data; loads its first batch."""
  inputs.train.seek(0)
  batch = next(inputs.train)
  inputs.train.seek(0)
  row = {
    name: jax.ShapeDtypeStruct(np.shape(value)[1:], np.asarray(value).dtype)
    for name, value in batch.items()
  }
  return Signature(row, inputs.steps_per_epoch, inputs.statistics)


def write(workdir: pathlib.Path, signature: Signature) -> None:
  """Writes `signature.json` of a run."""
  statistics = signature.statistics and signature.statistics._asdict()
  found = {
    'row': {
      name: {'shape': list(one.shape), 'dtype': np.dtype(one.dtype).name}
      for name, one in signature.row.items()
    },
    'steps_per_epoch': signature.steps_per_epoch,
    # JSON keeps every bit of a float.
    'statistics': jax.tree.map(lambda v: np.asarray(v).tolist(), statistics),
  }
  runs.write_text(workdir / _NAME, json.dumps(found) + '\n')


def read(workdir: pathlib.Path) -> Signature:
  """Reads the signature of a run.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is damaged.
  """
  path = workdir / _NAME
  if not path.exists():
    raise FileNotFoundError(
      f'{workdir} has no {_NAME}. Train first: python -m experiments.train. If'
      ' an older version trained this run, the same command writes the file.'
    )
  try:
    found = json.loads(path.read_text())
    row = {
      name: jax.ShapeDtypeStruct(tuple(one['shape']), np.dtype(one['dtype']))
      for name, one in found['row'].items()
    }
    statistics = jax.tree.map(
      lambda value: np.asarray(value, np.float64),
      found['statistics'],
      is_leaf=lambda value: isinstance(value, list),
    )
    if statistics is not None:
      statistics = transforms.Statistics(**statistics)
    return Signature(row, found['steps_per_epoch'], statistics)
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}). Repeat the command that trained this run:'
      ' it writes the file again.'
    ) from error
