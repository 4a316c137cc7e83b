"""Shows a run's numbers in TensorBoard, Weights & Biases or MLflow.

`config.writers` names them, or `'package.module:function'`, which gives a
`Writer`. What one imports is imported where it is named, and nowhere else.
"""

import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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
    """Brings what was added to where it is kept."""

  def close(self, is_done: bool) -> None:
    """Ends; `is_done` says that the run was not stopped."""


def makers(names: Any) -> list[Any]:
  """The functions that make writers; called before anything is trained.

  Args:
    names: of `config.writers`.

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


class _TensorBoard:
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


class _WandB:
  """Weights & Biases, told by its environment (WANDB_PROJECT, WANDB_MODE).

  It drops a step that it has seen; what it is told again is the same.
  """

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any], step: int
  ) -> None:
    id_file = workdir / 'wandb_id.txt'
    known = id_file.read_text() if step and id_file.exists() else None
    self._run = importlib.import_module('wandb').init(
      dir=str(workdir),
      name=workdir.name,
      config=dict(config),
      id=known,
      resume='allow' if known else None,
    )
    if not known:
      runs.write_text(id_file, self._run.id)

  def add(self, values: Mapping[str, float], step: int) -> None:
    self._run.log(dict(values), step=step)

  def flush(self) -> None:
    """It sends by itself."""

  def close(self, is_done: bool) -> None:
    self._run.finish(exit_code=0 if is_done else 1)


class _MLflow:
  """MLflow, told by its environment (MLFLOW_TRACKING_URI and the like)."""

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any], step: int
  ) -> None:
    self._mlflow = importlib.import_module('mlflow')
    id_file = workdir / 'mlflow_id.txt'
    if step and id_file.exists():
      self._mlflow.start_run(run_id=id_file.read_text())
      return
    run = self._mlflow.start_run(run_name=workdir.name)
    runs.write_text(id_file, run.info.run_id)
    self._mlflow.log_dict(dict(config), 'config.json')

  def add(self, values: Mapping[str, float], step: int) -> None:
    self._mlflow.log_metrics(dict(values), step=step)

  def flush(self) -> None:
    """What was logged is there."""

  def close(self, is_done: bool) -> None:
    self._mlflow.end_run('FINISHED' if is_done else 'KILLED')


_WRITERS: dict[
  str, tuple[str, Callable[..., Writer]]
] = {  # its package, and it
  'tensorboard': ('tensorboardX', _TensorBoard),
  'wandb': ('wandb', _WandB),
  'mlflow': ('mlflow', _MLflow),
}
