"""Runs what a method does between steps."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import tqdm

from experiments.core import data
from experiments.methods import base


class Rehearsals:
  """The rehearsals of one program: tells when they are due, and runs them.

  A rehearsal passes over the batches to come and puts the loaders back, so that
  training sees the same batches with and without it. It saves nothing: a run
  that is killed during a rehearsal starts it again.
  """

  def __init__(
    self,
    rehearsal: base.Rehearsal | None,
    steps_per_epoch: int,
    join: Callable[[Sequence[Any]], Any],
    place: Callable[[Any], Any] = lambda state: state,
  ) -> None:
    """Makes the programs, which are compiled when they are first needed."""
    self._rehearsal = rehearsal
    self._steps_per_epoch = steps_per_epoch
    self._join, self._place = join, place
    if self._rehearsal is not None:
      self._begin = self._rehearsal.begin
      self._end = jax.jit(self._rehearsal.end)
      self._steps = [jax.jit(one.step) for one in self._rehearsal.passes]
      self._compiled: list[Callable[..., Any]] = []

  def is_due(self, step: int) -> bool:
    """Whether to rehearse when `step` steps have been taken."""
    if self._rehearsal is None:
      return False
    every, last = self._rehearsal.every_epochs, self._rehearsal.last
    if every is None:
      return step == 0
    number, rest = divmod(step, self._length(every))
    is_late = last is not None and number > last
    return rest == 0 and number >= self._rehearsal.first and not is_late

  def run(
    self, state: Any, inputs: Sequence[data.Data], step: int
  ) -> tuple[Any, float]:
    """Rehearses after `step` steps, and puts the loaders back where they were.

    Returns:
      The state with what the method has learnt, and the seconds of its passes
      and their end, without loading and compiling.
    """
    assert self._rehearsal is not None
    places = [one.train.get_state() for one in inputs]
    seconds = 0.0
    try:
      first = next(self._batches('train', 0, inputs, step))
      scratch = self._begin(state, first)
      for walk, take in zip(self._rehearsal.passes, self._steps, strict=True):
        length = self._length(walk.epochs) if walk.split == 'train' else None
        for batch in tqdm.tqdm(
          self._batches(walk.split, walk.epochs, inputs, step),
          desc=f'rehearsal: {walk.split}',
          total=length,
          leave=False,
          disable=None,
        ):
          scratch, spent = self._timed(take, state, scratch, batch)
          seconds += spent
      state, spent = self._timed(self._end, state, scratch)
      return self._place(state), seconds + spent
    finally:
      for one, place in zip(inputs, places, strict=True):
        one.train.set_state(place)

  def _timed(
    self, function: Callable[..., Any], *given: Any
  ) -> tuple[Any, float]:
    """Calls a function, the first time twice; also returns its seconds."""
    if function not in self._compiled:
      self._compiled.append(function)
      jax.block_until_ready(function(*given))
    began = time.perf_counter()
    found = jax.block_until_ready(function(*given))
    return found, time.perf_counter() - began

  def _length(self, epochs: float) -> int:
    """Epochs in steps, at least one."""
    return max(1, round(epochs * self._steps_per_epoch))

  def _batches(
    self,
    split: str,
    epochs: float,
    inputs: Sequence[data.Data],
    step: int,
  ) -> Iterator[base.Batch]:
    """Batches of all runs at once."""
    if split == 'train':
      for one in inputs:
        one.train.seek(step)  # a step takes one batch
      for _ in range(self._length(epochs)):
        yield self._join([next(one.train) for one in inputs])
    else:
      for batches in zip(
        *(one.evaluation(split) for one in inputs), strict=True
      ):
        yield self._join(batches)
