"""Shows a run's numbers in TensorBoard, Weights & Biases or MLflow.

`config.writers` names them, or `'package.module:function'`, which gives a
`Writer`. What one imports is imported where it is named, and nowhere else.
"""

import contextlib
import importlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from absl import logging
from flax import traverse_util
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import named
from experiments.core import runs


class Writer(Protocol):
  """Shows the numbers of one run."""

  def add(self, values: Mapping[str, float], step: int) -> None:
    """Shows numbers of a step, by names as 'train/losses/fused'.

    A run that was killed tells again, with the same values, what it had told
    after its last checkpoint.
    """

  def flush(self) -> None:
    """Brings what was added to where it is kept, unless it is there."""

  def close(self, is_done: bool) -> None:
    """Ends; `is_done` says that the run was not stopped."""


def makers(names: Any) -> list[Any]:
  """The functions that make `config.writers`, before anything is trained.

  Returns:
    Functions (directory of the run, its configuration, step where it goes on,
    0 where it begins) -> `Writer`.

  Raises:
    ModuleNotFoundError: if the package of one is not installed.
    ValueError: if there is no such writer.
  """
  found = []
  for name in names:
    if ':' in name:
      found.append(named.lookup(None, name))
      continue
    if name not in _WRITERS:
      raise ValueError(
        f'config.writers has {name!r}; expected {", ".join(_WRITERS)} or'
        " 'package.module:function'."
      )
    package, make = _WRITERS[name]
    try:
      importlib.import_module(package)
    except ModuleNotFoundError as error:
      raise ModuleNotFoundError(
        f'config.writers has {name!r}, which needs the package {package}.'
        f' Install it with: pip install {package}',
        name=package,
      ) from error
    found.append(make)
  return found


def warn_of_many(names: Any) -> None:
  """Says that writers are of a single run, where many are trained."""
  if tuple(names) not in ((), ('tensorboard',)):
    logging.warning(
      'config.writers is %s, which experiments.train tells its numbers and'
      ' nobody else: compare and sweep write theirs into their directory.',
      tuple(names),
    )


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
  """What a writer is told of a row of `metrics.jsonl`, by name.

  Examples:
    >>> numbers({'step': 3, 'split': 'train', 'losses': {'fused': 0.5}})
    {'train/losses/fused': 0.5}
  """
  values = {k: v for k, v in row.items() if k not in ('step', 'split')}
  flat: dict[str, float] = traverse_util.flatten_dict(
    {row['split']: values}, sep='/'
  )
  return flat


class _TensorBoard(Writer):
  """Files of events in the directory of the run."""

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any], step: int
  ) -> None:
    del config
    # Files of events are named by the second, and one that goes on within it
    # would be written over the one before.
    self._events = importlib.import_module('tensorboardX').SummaryWriter(
      str(workdir / 'tensorboard'),
      purge_step=step + 1,
      filename_suffix=f'.{step:012d}',
    )

  def add(self, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def flush(self) -> None:
    self._events.flush()

  def close(self, is_done: bool) -> None:
    del is_done
    self._events.close()


class _WandB(Writer):
  """Weights & Biases, told by its environment (WANDB_PROJECT, WANDB_MODE).

  It drops a step that it has seen; what it is told again is the same. Offline
  it does not know them, each start has a folder of its own, and of a process
  that was killed little is kept: the folder of a run that goes on is told
  everything, and takes the place of the ones before when it is synced.
  """

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any], step: int
  ) -> None:
    del step
    wandb = importlib.import_module('wandb')
    id_file = workdir / 'wandb_id.txt'
    known = id_file.read_text() if id_file.exists() else None
    is_offline = wandb.setup().settings.mode == 'offline'
    with _in_a_sentence('wandb', wandb.Error):
      self._run = wandb.init(
        dir=str(workdir),
        name=workdir.name,
        config=dict(config),
        id=known,
        resume='allow' if known and not is_offline else None,
      )
    if not known:
      runs.write_text(id_file, self._run.id)
    if is_offline or not known:
      _catch_up(self, workdir)

  def add(self, values: Mapping[str, float], step: int) -> None:
    self._run.log(dict(values), step=step)

  def close(self, is_done: bool) -> None:
    self._run.finish(exit_code=0 if is_done else 1)


class _MLflow(Writer):
  """MLflow, told by its environment (MLFLOW_TRACKING_URI and the like).

  It shows a number twice that it is told twice, and so is asked before.
  """

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any], step: int
  ) -> None:
    del step
    self._mlflow = importlib.import_module('mlflow')
    self._seen: dict[str, set[int]] = {}  # by the first of numbers told at once
    id_file = workdir / 'mlflow_id.txt'
    known = id_file.read_text() if id_file.exists() else None
    with self._guarded():
      name = None if known else workdir.name  # it may have been renamed
      run = self._mlflow.start_run(run_id=known, run_name=name)
      self._id = run.info.run_id
      if not known:
        runs.write_text(id_file, self._id)
        flat = configuration.flatten(config_dict.ConfigDict(config))
        of_one = [k for k in flat if k.partition('.')[0] not in _OF_MANY]
        self._mlflow.log_params({key: flat[key] for key in of_one})
        self._mlflow.log_dict(dict(config), 'config.json')
    _catch_up(self, workdir)

  def add(self, values: Mapping[str, float], step: int) -> None:
    name = next(iter(values))
    with self._guarded():
      if name not in self._seen:
        client = self._mlflow.MlflowClient()
        history = client.get_metric_history(self._id, name)
        self._seen[name] = {number.step for number in history}
      if step not in self._seen[name]:
        self._mlflow.log_metrics(dict(values), step=step)

  def close(self, is_done: bool) -> None:
    with self._guarded():
      self._mlflow.end_run('FINISHED' if is_done else 'KILLED')

  def _guarded(self) -> contextlib.AbstractContextManager[None]:
    error = self._mlflow.exceptions.MlflowException
    return _in_a_sentence('mlflow', error)


def _catch_up(writer: Writer, workdir: pathlib.Path) -> None:
  """Tells what a run that goes on has logged before."""
  for row in runs.read_lines(workdir / 'metrics.jsonl')[1:]:
    writer.add(numbers(row), row['step'])


@contextlib.contextmanager
def _in_a_sentence(name: str, error: type[Exception]) -> Iterator[None]:
  """Says of an error of a service whose it is."""
  try:
    yield
  except error as said:
    raise OSError(f'config.writers has {name!r}, which says: {said}') from said


# What `compare` and `sweep` read of a configuration, and `train` does not.
_OF_MANY = {'compare', 'num_seeds', 'recipes', 'subject', 'sweep', 'tuning'}

_WRITERS: dict[
  str, tuple[str, Callable[..., Writer]]
] = {  # its package, and it
  'tensorboard': ('tensorboardX', _TensorBoard),
  'wandb': ('wandb', _WandB),
  'mlflow': ('mlflow', _MLflow),
}
