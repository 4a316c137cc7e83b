"""The directory of a run: its configuration, metrics and checkpoints."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import config_dict

from experiments.core import checkpoints
from experiments.core import configuration

# The version of a run's files: 3 since candidates are scored during training.
FORMAT = 3
# Keys that change no result of a run.
MAY_CHANGE = frozenset({'data.num_workers', 'data.num_threads', 'writers'})
_PACKAGES = ('jax', 'jaxlib', 'optax', 'flax', 'grain', 'orbax-checkpoint')


def open_workdir(
  workdir: pathlib.Path,
  config: config_dict.ConfigDict,
  may_change: Container[str] = MAY_CHANGE,
) -> pathlib.Path:
  """Makes a run's directory, or checks that it belongs to the same run.

  With several processes, the first one makes it. Of keys that may change, it
  keeps the values of the last command.

  Raises:
    ValueError: if it holds a run of another configuration, unless that one
      ended before its first step; or one whose files another version wrote in
      another format; or as `configuration.check`.
  """
  configuration.check(config)
  workdir = workdir.absolute()
  if set('[]*?\\') & set(str(workdir)):
    raise ValueError(
      f'The directory {workdir} has one of the characters []*?\\ in its path,'
      ' which checkpoints take for a pattern. Give another --workdir.'
    )
  path = workdir / 'config.json'
  ours = json.loads(configuration.dump(config))
  if path.exists():
    there, here = (
      configuration.flatten(config_dict.ConfigDict(one))
      for one in (_read_config(path), ours)
    )
    differences = [
      f'  {key}: given {here.get(key)!r}, the run there has {there.get(key)!r}'
      for key in sorted(here.keys() | there.keys())
      if here.get(key) != there.get(key) and key not in may_change
    ]
    if differences and _has_begun(workdir):
      raise ValueError(
        f'{workdir} holds a run of another configuration:\n'
        + '\n'.join(differences)
        + '\nGive another --workdir, or remove that one to start anew.'
      )
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({'format': FORMAT, 'config': ours}, indent=2)
    write_text(path, text + '\n')
  return workdir


def _has_begun(workdir: pathlib.Path) -> bool:
  """Whether a run did, or does, more than to end in an error at its start."""
  files = {path.name for path in workdir.rglob('*') if path.is_file()}
  is_empty = files <= {'config.json', checkpoints.LOCK}
  return not is_empty or checkpoints.is_in_use(workdir)


def read_config(workdir: pathlib.Path) -> config_dict.ConfigDict:
  """The configuration of a run, as its command had it.

  Raises:
    FileNotFoundError: if the directory has none.
    ValueError: if it is damaged, or of another version.
  """
  path = workdir / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'{workdir} holds no run: it has no config.json.')

  def with_tuples(value: Any) -> Any:
    """Makes tuples of JSON's lists."""
    if isinstance(value, dict):
      return {key: with_tuples(below) for key, below in value.items()}
    if isinstance(value, list):
      return tuple(with_tuples(below) for below in value)
    return value

  return config_dict.ConfigDict(with_tuples(_read_config(path))).lock()


def header(config: config_dict.ConfigDict) -> dict[str, Any]:
  """What the first line of every metrics file says about the run."""
  return {
    'format': FORMAT,
    'config': json.loads(configuration.dump(config)),
    'seed': config.seed,
    'modalities': sorted(config.model.encoders),
    'metrics': list(config.evaluation.metrics),
    'versions': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'commit': _commit(),
    'device': jax.devices()[0].device_kind,
    'num_devices': jax.device_count(),
    'num_processes': jax.process_count(),
  }


def warn_of_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Warns of what differs between the header of a run and this process."""
  for key in ('versions', 'commit', 'device', 'num_devices', 'num_processes'):
    if then[key] != now[key]:
      logging.warning(
        'The run began with %s %s and resumes with %s: its results may differ'
        ' from those without this change.',
        key,
        then[key],
        now[key],
      )


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Adds the file's name to an `OSError` of the block that has none."""
  try:
    yield
  except OSError as error:
    # Writing to an open file, as when the disk is full, raises without a name.
    if error.filename is None:
      error.filename = str(path)
    raise


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path to write to; the file written then replaces the old one."""
  temporary = path.with_name(path.name + '.writing')
  with writing(temporary):
    yield temporary
  temporary.replace(path)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file atomically: if interrupted, it is the old one or the new."""
  with (
    replacing(path) as temporary,
    temporary.open('w', encoding='utf-8') as file,
  ):
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def write_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes JSON lines, atomically."""
  write_text(path, ''.join(json.dumps(row) + '\n' for row in rows))


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes a compressed npz, atomically."""
  with replacing(path) as temporary, temporary.open('wb') as file:
    # Typed as any, since the function has keyword arguments of its own.
    np.savez_compressed(file, **dict[str, Any](arrays))


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads JSON lines, of which the first must be a header.

  Raises:
    ValueError: if it is not.
  """
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  if not rows or 'config' not in rows[0]:
    raise ValueError(
      f'{path} does not begin with a header (config, versions, seed, device);'
      ' numbers without one cannot be reported.'
    )
  return rows


def _read_config(path: pathlib.Path) -> dict[str, Any]:
  """The configuration in a run's `config.json`."""
  try:
    found = json.loads(path.read_text())
    version = found.get('format', 1)
  except (ValueError, AttributeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}), so it is unknown which run this is. Remove'
      f' {path.parent} to start anew.'
    ) from error
  if version != FORMAT:
    raise ValueError(
      f'{path.parent} was written by another version of this project (format'
      f' {version!r}; expected {FORMAT}), and this version cannot resume it.'
      ' Give another --workdir, or remove that one to start anew.'
    )
  config: dict[str, Any] = found['config']
  return config


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
