"""A trained model, from the directory of its run."""

import os
import pathlib
from typing import NamedTuple

import jax
from ml_collections import config_dict

from experiments.core import checkpoints as checkpoints_lib
from experiments.core import data
from experiments.core import runs
from experiments.core import training


class Trained(NamedTuple):
  """What `experiments.train` has left."""

  experiment: training.Experiment
  state: training.TrainState  # on the first device
  inputs: data.Data


def load(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Trained:
  """Restores the last checkpoint of a run of `experiments.train`.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if `workdir` holds another run.
  """
  workdir = workdir.absolute()
  if not (workdir / 'checkpoints').is_dir():
    raise FileNotFoundError(
      f'{workdir} has no checkpoints. Train first, with the same arguments:'
      ' python -m experiments.train'
    )
  runs.open_workdir(workdir, config)
  inputs = data.open_data(config, config.seed, manual_dir)
  experiment = training.make(config, inputs.steps_per_epoch)
  like = jax.eval_shape(
    experiment.init, jax.random.key(config.seed), next(inputs.train)
  )
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  restored = checkpoints.restore({'states': {'': like}, 'curves': {}})
  checkpoints.close()
  if restored is None:
    raise FileNotFoundError(f'{workdir} has no finished checkpoint yet.')
  return Trained(experiment, restored[0]['states'][''], inputs)
