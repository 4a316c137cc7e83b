"""The directory of a run: its configuration, metrics and checkpoints."""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from ml_collections import config_dict

from experiments.core import configuration

_PACKAGES = ('jax', 'jaxlib', 'optax', 'flax', 'grain', 'orbax-checkpoint')


def default_workdir(kind: str, config: config_dict.ConfigDict) -> pathlib.Path:
  """A directory of its own for each configuration, under runs/."""
  digest = hashlib.sha256(_dump(config).encode()).hexdigest()[:8]
  data = config.data
  return pathlib.Path('runs', kind, f'{data.name}-{data.config}-{digest}')


def open_workdir(
  workdir: pathlib.Path, config: config_dict.ConfigDict
) -> pathlib.Path:
  """Makes a run's directory, or checks that it belongs to the same run.

  Of several processes the first one makes it.

  Raises:
    ValueError: if it holds a run of another configuration.
  """
  workdir = workdir.absolute()
  path = workdir / 'config.json'
  if path.exists():
    theirs = config_dict.ConfigDict(json.loads(path.read_text()))
    ours = config_dict.ConfigDict(json.loads(_dump(config)))
    there = dict(configuration.flatten(theirs))
    here = dict(configuration.flatten(ours))
    differences = [
      f'  {key}: given {here.get(key)!r}, the run there has {there.get(key)!r}'
      for key in sorted(here.keys() | there.keys())
      if here.get(key) != there.get(key)
    ]
    if differences:
      raise ValueError(
        f'{workdir} holds a run of another configuration:\n'
        + '\n'.join(differences)
        + '\nGive another --workdir, or remove that one to start anew.'
      )
  elif jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, _dump(config))
  return workdir


def header(config: config_dict.ConfigDict) -> dict[str, Any]:
  """What the first line of every metrics file says about the run."""
  return {
    'config': json.loads(_dump(config)),
    'seed': config.seed,
    'versions': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'commit': _commit(),
    'device': jax.devices()[0].device_kind,
    'num_devices': jax.device_count(),
    'num_processes': jax.process_count(),
  }


def warn_of_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Says what differs between the header of a run and this process."""
  keys = ('versions', 'commit', 'device', 'num_devices', 'num_processes')
  for key in keys:
    if then[key] != now[key]:
      logging.warning(
        'The run was begun with %s %s and goes on with %s: the rest may differ'
        ' from what it would have been.',
        key,
        then[key],
        now[key],
      )


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole: after an interruption it is the old or the new."""
  temporary = path.with_name(path.name + '.writing')
  with temporary.open('w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def write_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes JSON lines, whole."""
  write_text(path, ''.join(json.dumps(row) + '\n' for row in rows))


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads JSON lines whose first is a header.

  Raises:
    ValueError: if the first line does not say how the rest was made.
  """
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  if not rows or 'config' not in rows[0]:
    raise ValueError(
      f'{path} does not begin with a header (config, versions, seed, device);'
      ' numbers without one cannot be reported.'
    )
  return rows


def best_candidate(candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The candidate whose `validation` [seeds] has the best mean.

  Args:
    candidates: each with `values`, and `validation` if there are several.

  Returns:
    The best one; of equal ones the first. NaN is worse than any number.

  Examples:
    >>> best_candidate([
    ...   {'values': {'c': 1}, 'validation': [0.5, 0.7]},
    ...   {'values': {'c': 2}, 'validation': [0.6, 0.7]},
    ... ])['values']
    {'c': 2}
  """
  if len(candidates) == 1:
    return candidates[0]

  def mean(candidate: Mapping[str, Any]) -> float:
    value = float(np.mean(candidate['validation']))
    return -math.inf if math.isnan(value) else value

  return max(candidates, key=mean)


class Checkpoints:
  """Checkpoints of arrays and of JSON, kept by Orbax; the last two stay."""

  def __init__(self, workdir: pathlib.Path) -> None:
    self._manager = ocp.CheckpointManager(
      workdir / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False
      ),
    )

  def save(self, step: int, arrays: Any, progress: Mapping[str, Any]) -> None:
    """Saves a pytree of arrays and what JSON can say, both or neither."""
    self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        progress=ocp.args.JsonSave(dict(progress)),
      ),
      force=True,
    )

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest checkpoint; None if there is none.

    Args:
      like: the arrays' structure, as of `jax.eval_shape`; where they have no
        sharding, they come to the first device, wherever they were saved.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
      lambda leaf: (
        leaf
        if leaf.sharding is not None
        else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first)
      ),
      like,
    )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardRestore(like),
        progress=ocp.args.JsonRestore(),
      ),
    )
    return restored['arrays'], restored['progress']

  def close(self) -> None:
    """Waits for Orbax to finish."""
    self._manager.close()


def _dump(config: config_dict.ConfigDict) -> str:
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def _commit() -> str | None:
  """The commit of this checkout; None without git, or outside of one."""
  if shutil.which('git') is None:
    return None
  git = subprocess.run(
    ['git', 'describe', '--always', '--dirty'],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parent,
    check=False,
  )
  return git.stdout.strip() or None
