"""Checkpoints of a run: complete and verified, or not used."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging as standard_logging
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax import lax

LOCK = 'checkpoints.lock'
"""The file in a run's directory that is locked while the run is open."""

_KEPT = 2


class Checkpoints:
  """Checkpoints of arrays and JSON, written by Orbax; the last two are kept.

  Each holds digests of its contents. A damaged one is named in a warning and
  set aside, and the one before is restored. A lock keeps other processes out
  while they are open; the kernel releases it however the process ends.
  """

  def __init__(self, workdir: pathlib.Path) -> None:
    """Opens the directory, and completes a deletion that was interrupted.

    Raises:
      ValueError: if another process has it open.
    """
    self._directory = workdir / 'checkpoints'
    self._lock: Any = None
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
      self._lock = _locked(workdir)
      if self._lock is None:
        raise ValueError(
          f'Another process is using {workdir}. Wait for it to end, or give'
          ' another --workdir.'
        )
      for step in sorted(_steps(self._directory))[:-_KEPT]:
        shutil.rmtree(self._directory / f'{step}')
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        enable_async_checkpointing=False, cleanup_tmp_directories=True
      ),
    )

  def save(self, step: int, arrays: Any, progress: Mapping[str, Any]) -> None:
    """Saves a pytree of arrays, and progress as JSON: both or neither.

    Checkpoints older than the last two are deleted once this one is on disk.

    Raises:
      OSError: if it could not be written.
    """
    signed = {'progress': progress, 'arrays': _digests(arrays)}
    parts = ocp.args.Composite(
      arrays=ocp.args.StandardSave(arrays),
      progress=ocp.args.JsonSave(signed | {'digest': _json_digest(signed)}),
    )
    try:
      with _quiet_threads():
        self._manager.save(step, args=parts, force=True)
      if jax.process_index() == 0:
        _flush(self._directory / f'{step}')
    except Exception as error:
      # It would log the failed tasks after our message.
      standard_logging.getLogger('asyncio').setLevel(standard_logging.CRITICAL)
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
      raise OSError(
        f'The checkpoint of step {step} ({size / 1e6:.0f} MB) could not be'
        f' written to {self._directory}, where'
        f' {shutil.disk_usage(self._directory).free / 1e6:.0f} MB are free:'
        f' {str(error).splitlines()[0][:200]}. When there is room, the same'
        ' command goes on from the last checkpoint.'
      ) from error
    for old in sorted(self._manager.all_steps())[:-_KEPT]:
      self._manager.delete(old)

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest undamaged checkpoint; None if there is none at all.

    `like` has the arrays' shapes, as `jax.eval_shape` returns them. An array
    without sharding is placed on the first device, wherever it was saved.

    Raises:
      ValueError: if all checkpoints are damaged, or the arrays have other
        names, types or shapes than expected.
    """
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
      lambda leaf: (
        leaf
        if leaf.sharding is not None
        else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first)
      ),
      like,
    )
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        restored = self._restored(step, like)
        if step != steps[0]:
          # Orbax must forget those set aside: their steps are saved again.
          self._manager.reload()
        return restored
      except _MismatchError as error:
        raise ValueError(
          f'The checkpoint of step {step} in {self._directory} belongs to'
          f' another model or other code: {error} Give another --workdir.'
        ) from error
      except Exception as error:
        if _is_machine_failure(error):
          raise
        logging.warning(
          'The checkpoint of step %d in %s is damaged (%s), and is set aside.',
          step,
          self._directory,
          str(error).splitlines()[0][:200],
        )
        if jax.process_index() == 0:
          _set_aside(self._directory / f'{step}')
    if steps:
      raise ValueError(
        f'All checkpoints in {self._directory} are damaged, and were moved to'
        f' {self._directory}.damaged. Remove {self._directory.parent} to start'
        ' anew, or put a copy of a checkpoint back.'
      )
    return None

  def close(self) -> None:
    """Waits for Orbax to finish."""
    self._manager.close()
    if self._lock is not None:
      self._lock.close()

  def _restored(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    found = self._manager.restore(
      step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
    )['progress']
    if found.pop('digest') != _json_digest(found):
      raise ValueError('the digest of its progress is not the saved one')
    _check_shapes(found['arrays'], like)
    arrays = self._manager.restore(
      step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like))
    )['arrays']
    now = _digests(arrays)
    if wrong := [key for key in now if now[key] != found['arrays'][key]]:
      raise ValueError(f'the digests of {wrong} are not the saved ones')
    return arrays, found['progress']


def is_in_use(workdir: pathlib.Path) -> bool:
  """Whether a process has the checkpoints of a run open."""
  if not (workdir / LOCK).exists():
    return False
  lock = _locked(workdir)
  if lock is not None:
    lock.close()
  return lock is None


def _locked(workdir: pathlib.Path) -> Any:
  """The lock of a run, until it is closed; None if another process has it."""
  path = workdir / LOCK
  try:
    lock = path.open('w')
  except OSError as error:
    # Without write permission, a trained model can still be read.
    if error.errno not in (errno.EROFS, errno.EACCES) or not path.exists():
      raise
    lock = path.open()
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    lock.close()
    return None
  return lock


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
  """Mutes what Orbax's threads log of an error, which Orbax raises, too."""
  before, others = logging.get_verbosity(), set(threading.enumerate())
  if before <= logging.WARNING:  # nobody asked for more
    logging.set_verbosity(logging.FATAL)
  try:
    yield
  except Exception:
    # One thread's error is raised before the other threads have logged theirs.
    # Joining them is not possible: Python refuses it of one yet to start.
    until = time.monotonic() + 1
    while set(threading.enumerate()) - others and time.monotonic() < until:
      time.sleep(0.01)
    raise
  finally:
    logging.set_verbosity(before)


class _MismatchError(Exception):
  """A checkpoint does not have the expected arrays."""


def _is_machine_failure(error: Exception) -> bool:
  """Whether the machine, not the checkpoint, is why reading has failed."""
  words = ('RESOURCE_EXHAUSTED', 'PERMISSION_DENIED')
  return isinstance(error, MemoryError | PermissionError) or any(
    word in str(error) for word in words
  )


def _check_shapes(saved: Mapping[str, Any], like: Any) -> None:
  """Refuses arrays of other names, types or shapes than were saved."""
  expected = {
    jax.tree_util.keystr(path): f'{leaf.dtype}{list(leaf.shape)}'
    for path, leaf in jax.tree.leaves_with_path(like)
  }
  if other := sorted(expected.keys() ^ saved.keys()):
    raise _MismatchError(f'only one of the two has {other[:3]}.')
  for key, form in expected.items():
    if saved[key][0] != form:
      raise _MismatchError(
        f'{key} was saved as {saved[key][0]}, and is {form} now.'
      )


def _digests(arrays: Any) -> dict[str, list[Any]]:
  """Path of each array -> its type and shape, and a digest of its bits.

  The digest does not depend on how the array is sharded over devices and
  processes: it sums, over all words of 32 bits, a hash of the word and its
  place. For each place the hash is a bijection, so that any change of a single
  word changes the digest.
  """
  leaves = {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree.leaves_with_path(arrays)
  }
  found = {}
  for key, leaf in leaves.items():
    form = f'{leaf.dtype}{list(leaf.shape)}'
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      number = jax.jit(_digest_on_devices)(leaf)
    else:
      number = _digest(np.asarray(leaf))
    found[key] = [form, int(number)]
  return found


def _digest(leaf: np.ndarray[Any, Any]) -> np.uint32:
  size = min(leaf.dtype.itemsize, 4)
  words = np.ascontiguousarray(leaf).reshape(-1).view(f'u{size}')
  place = np.arange(words.size, dtype=np.uint32)
  return np.sum(_mixed(words.astype(np.uint32), place), dtype=np.uint32)


def _digest_on_devices(leaf: jax.Array) -> jax.Array:
  if leaf.dtype == bool:
    leaf = leaf.astype(jnp.uint8)
  size = min(leaf.dtype.itemsize, 4)
  words = lax.bitcast_convert_type(leaf, jnp.dtype(f'u{size}'))
  place = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    along = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    place += along * jnp.uint32(stride)
    stride *= words.shape[axis]
  return jnp.sum(_mixed(words.astype(jnp.uint32), place), dtype=jnp.uint32)


def _mixed(words: Any, place: Any) -> Any:
  """MurmurHash3's finalizer of a word, combined with its place."""
  words = words ^ (place * np.uint32(0x9E3779B1))
  words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
  words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
  return words ^ (words >> 16)


def _json_digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _steps(directory: pathlib.Path) -> list[int]:
  return [int(p.name) for p in directory.glob('*') if p.name.isdigit()]


def _set_aside(path: pathlib.Path) -> None:
  """Moves a damaged checkpoint out of Orbax's sight."""
  aside = path.parent.with_name('checkpoints.damaged')
  aside.mkdir(exist_ok=True)
  shutil.rmtree(aside / path.name, ignore_errors=True)
  path.rename(aside / path.name)


def _flush(directory: pathlib.Path) -> None:
  """Waits until a folder, with all that is in it, is on the disk."""
  for path in (directory.parent, directory, *directory.rglob('*')):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
