"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint."""

import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Stopping:
  """A context that tells whether the run has been asked to stop.

  The first signal asks; a second one ends the process at once. Several
  processes all stop at the same step, whichever is asked: there, JAX receives
  SIGTERM and agrees on a step with the others, and Ctrl-C is passed on as
  SIGTERM.
  """

  def __init__(self) -> None:
    self._received: int | None = None
    self._is_agreed = False  # among several processes
    self._before: dict[int, Any] = {}

  def is_due(self, step: int) -> bool:
    """Whether to stop before a step; to be called for all steps in order."""
    if jax.process_count() == 1:
      return self._received is not None
    if not self._is_agreed:
      self._is_agreed = multihost_utils.reached_preemption_sync_point(step)
    return self._is_agreed

  def exit(self, directory: pathlib.Path, step: int) -> None:
    """Says how to go on, and ends the program by `SystemExit`.

    The status is 130 after Ctrl-C and 143 after SIGTERM, as for any program
    that they kill.
    """
    received = self._received or signal.SIGTERM
    print(
      f'\nStopped after {step} steps by {signal.Signals(received).name}. The'
      f' same command goes on from there: {directory} has a checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    raise SystemExit(128 + received)

  def __enter__(self) -> Self:
    if threading.current_thread() is threading.main_thread():
      ours: dict[int, Callable[..., None]] = {signal.SIGINT: self._receive}
      if jax.process_count() == 1:
        ours[signal.SIGTERM] = self._receive
      for number, handler in ours.items():
        self._before[number] = signal.signal(number, handler)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _receive(self, number: int, frame: Any) -> None:
    del frame
    if self._received is not None:
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
    self._received = number
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
