"""Runs comparisons side by side, a process each, on several cores."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection
from typing import Any

import jax
import tqdm

from experiments.core import compilation

Task = Callable[[], Any]  # can be pickled


def run(
  tasks: Mapping[str, Task], number: int, directory: pathlib.Path
) -> None:
  """Runs tasks, some at a time, to their ends.

  What they print goes to `NAME.log` in `directory`, and what they compile to
  `compiled` there. After a failure no further task starts. Ctrl-C and SIGTERM
  are passed on to running tasks, which are waited for.

  Args:
    tasks: name -> task, in the order in which they start.
    number: how many at a time.
    directory: for logs and programs; it is made.

  Raises:
    SystemExit: if a task failed; it names the logs.
    ValueError: if there is an accelerator, whose memory one process takes.
  """
  if (backend := jax.default_backend()) != 'cpu':
    raise ValueError(
      'Comparisons can run side by side only on the cores of a CPU. One process'
      f' takes all memory of this {backend}; expected --at_a_time=1.'
    )
  directory.mkdir(parents=True, exist_ok=True)
  # Spawned processes share nothing with this one: no thread, and no device.
  context = multiprocessing.get_context('spawn')
  waiting = list(tasks)
  running: dict[str, Any] = {}
  failed: list[str] = []
  with (
    _passing_on(running),
    tqdm.tqdm(total=len(tasks), desc='side by side', unit='comparison') as bar,
  ):
    while running or (waiting and not failed):
      while waiting and len(running) < number and not failed:
        name = waiting.pop(0)
        process = context.Process(
          target=_run, args=(tasks[name], name, directory)
        )
        process.start()
        running[name] = process
      bar.set_postfix_str(', '.join(running))
      ended = connection.wait([one.sentinel for one in running.values()])
      for name in [n for n, one in running.items() if one.sentinel in ended]:
        running[name].join()
        if running.pop(name).exitcode:
          failed.append(name)
        bar.update()
  if failed:
    logs = ', '.join(str(directory / f'{name}.log') for name in failed)
    sys.exit(
      f'These comparisons failed, see {logs}. The same command resumes them.'
    )


def _run(task: Task, name: str, directory: pathlib.Path) -> None:
  """Runs a task in a process of its own, which ends when its parent does."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  log = os.open(
    directory / f'{name}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND
  )
  for stream in (1, 2):
    os.dup2(log, stream)
  with compilation.kept_in(directory / 'compiled'):
    task()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _passing_on(running: Mapping[str, Any]) -> Iterator[None]:
  """Passes SIGTERM on, as Ctrl-C is anyway, and waits for what is running."""

  def pass_on(received: int, _: Any) -> None:
    for one in running.values():
      one.terminate()
    sys.exit(128 + received)

  before = signal.signal(signal.SIGTERM, pass_on)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
    for one in running.values():
      one.join()
