"""A trained model's inputs, kept in its run, so it needs no data set."""

import json
import pathlib
from typing import Any, NamedTuple

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
  found: dict[str, Any] = {
    'row': {
      name: {'shape': list(one.shape), 'dtype': np.dtype(one.dtype).name}
      for name, one in signature.row.items()
    },
    'steps_per_epoch': signature.steps_per_epoch,
    'statistics': None,
  }
  if signature.statistics is not None:
    # JSON keeps every bit of a float.
    found['statistics'] = {
      key: {name: np.asarray(v).tolist() for name, v in of_key.items()}
      for key, of_key in signature.statistics._asdict().items()
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
    statistics = found['statistics']
    if statistics is not None:
      statistics = transforms.Statistics(
        **{
          key: {name: np.asarray(v, np.float64) for name, v in of_key.items()}
          for key, of_key in statistics.items()
        }
      )
    return Signature(row, found['steps_per_epoch'], statistics)
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}). Repeat the command that trained this run:'
      ' it writes the file again.'
    ) from error
