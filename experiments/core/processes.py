"""Several processes that train one model together."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
from absl import flags
from jax.experimental import multihost_utils

# Seconds without a heartbeat after which a process counts as failed, and after
# which one that has ended stops waiting for the others. They are well below a
# minute, the longest that others may hang. Computing stops no heartbeat.
_HEARTBEAT, _SHUTDOWN = 30, 30
# Seconds in which all processes must have started.
_START = 40


_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  "With several processes: address and port of process 0, or 'auto' if JAX"
  ' finds the processes by itself: under Slurm or Open MPI, on TPU pods.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'The number of processes that train together.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'The number of this process, from 0.'
)


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
  """Runs the block in the first process, and then in the others.

  It is for what the first leaves on a shared disk, such as a prepared data set.
  """
  if jax.process_index() > 0:
    multihost_utils.sync_global_devices('first process first')
  yield
  if jax.process_index() == 0 and jax.process_count() > 1:
    multihost_utils.sync_global_devices('first process first')


@contextlib.contextmanager
def connected() -> Iterator[None]:
  """Connects this process with the others of a run, if flags tell of others.

  If one fails, all others end, too: at once if they wait for its numbers, else
  after half a minute without its heartbeat.

  Yields:
    Nothing.

  Raises:
    ValueError: if some of the flags are missing.
  """
  coordinator = _COORDINATOR.value
  numbers = num_processes, process_id = _NUM_PROCESSES.value, _PROCESS_ID.value
  if coordinator is None and numbers == (None, None):
    yield
    return
  if coordinator is None or (coordinator != 'auto' and None in numbers):
    raise ValueError(
      f'Given --coordinator={coordinator}, --num_processes={num_processes} and'
      f' --process_id={process_id}; expected all three, or --coordinator=auto'
      ' alone, or none of them for a single process.'
    )
  print(
    'Waiting for all processes to connect with the first'
    f' ({coordinator}), {_START} seconds at most.',
    file=sys.stderr,
    flush=True,
  )
  jax.distributed.initialize(
    None if coordinator == 'auto' else coordinator,
    num_processes,
    process_id,
    # Listen on the given address only, not on all that the machine has.
    coordinator_bind_address=None if coordinator == 'auto' else coordinator,
    initialization_timeout=_START,
    heartbeat_timeout_seconds=_HEARTBEAT,
    shutdown_timeout_seconds=_SHUTDOWN,
  )
  say_goodbye = _watched(jax.process_index(), jax.process_count())
  try:
    yield
  except Exception as error:
    say_goodbye()
    message = (
      f'Process {jax.process_index()} of {jax.process_count()} stops with'
      f' {type(error).__name__}: {error}'
    )
    if isinstance(error, jax.errors.JaxRuntimeError):
      message += (
        '\nIf that is a broken connection, another process has failed, and its'
        ' own output says why.'
      )
    print(
      f'{message}\nGiven again for all processes, the same commands go on from'
      ' the last checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    # Python's own exit would wait for the others to end, while they wait for
    # this one.
    os._exit(1)
  finally:
    say_goodbye()
  jax.distributed.shutdown()


# Waits for a byte on its standard input; if that closes without one, prints.
_WATCHER = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
  signal.signal(number, signal.SIG_IGN)
if not sys.stdin.read(1):
  print(sys.argv[1], file=sys.stderr, flush=True)
"""


def _watched(index: int, number: int) -> Callable[[], None]:
  """Starts a watcher that says what happened if this process is killed.

  If another process fails, JAX aborts this one and prints pages of stacks.
  Here, this process exits instead, with the number of the signal as its status.
  The watcher, a process of its own, then prints one message, as it does if this
  process is killed.

  Returns:
    A function to call when the process ends by itself.
  """
  library = ctypes.CDLL(None)
  library.signal(signal.SIGABRT, ctypes.cast(library._exit, ctypes.c_void_p))
  watcher = subprocess.Popen(
    [
      sys.executable,
      '-IS',
      '-c',
      _WATCHER,
      f'\nProcess {index} of {number} was ended: another process has failed,'
      ' and its own output says why, or this one was killed. Given again for'
      ' all processes, the same commands go on from the last checkpoint.',
    ],
    stdin=subprocess.PIPE,
  )

  def say_goodbye() -> None:
    if watcher.stdin and not watcher.stdin.closed:
      watcher.stdin.write(b'.')
      watcher.stdin.close()
      watcher.wait()

  return say_goodbye
