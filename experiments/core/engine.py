"""The training loop: feeds programs the same batches until they end."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import tqdm
from ml_collections import config_dict

from experiments.core import checkpoints as checkpoints_lib
from experiments.core import data
from experiments.core import fingerprints
from experiments.core import program as program_lib
from experiments.core import runs
from experiments.core import signals
from experiments.core import weighing

State = Any
# 'losses', 'weights' -> objective -> [steps, runs]; and diagnostics
Metrics = Mapping[str, Any]


class Course(NamedTuple):
  """The progress of a training at some step; checkpoints hold all of it."""

  step: int  # steps taken
  states: dict[str, State]  # program -> state
  # losses/<program>, weights/<program> -> [runs, steps, objectives]; with
  # diagnostics also conflicting/<program> -> [runs, steps], NaN where a rule
  # sees no gradients
  curves: dict[str, npt.NDArray[np.float32]]
  seconds: dict[str, list[float]]  # program -> seconds per step, of each turn
  rehearsed: dict[str, list[float]]  # program -> seconds of each rehearsal
  header: dict[str, Any]  # of the process that started the training

  def seconds_of(self, name: str) -> float:
    """The seconds that a program's steps and rehearsals have taken so far."""
    steps = float(np.mean(self.seconds[name])) * self.step
    return steps + sum(self.rehearsed[name])


class Observer:
  """A command's hooks into the training loop; these do nothing."""

  def begin(self, header: Mapping[str, Any]) -> None:
    """Called when training starts from the beginning."""

  def resume(self, kept: Any, step: int) -> None:
    """Called when training resumes; `kept()` returned `kept` when it saved."""

  def turn(self, step: int, name: str, metrics: Metrics, state: State) -> str:
    """Called after a program's turn; returns text for the progress bar."""
    del step, state
    fused = float(np.mean(metrics['losses']['fused']))
    return f'{name}: fused loss {fused:.3f}'.removeprefix(': ')

  def checkpoint(self, step: int, states: Mapping[str, State]) -> None:
    """Called before a checkpoint is saved at one of its regular steps."""

  def kept(self) -> Any:
    """Returns what else to save in a checkpoint, of types that JSON knows."""


def run(
  programs: Mapping[str, program_lib.Program],
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
  config: config_dict.ConfigDict,
  *,
  label: str,
  beside: Mapping[str, Any] = {},
  observer: Observer | None = None,
  keep_curves: bool = False,
) -> Course:
  """Trains programs in turns of some steps each, or resumes doing so.

  Every program sees the same batches. A turn ends where a step is logged or a
  checkpoint is saved. Each turn starts with another program, so that none
  always runs on cold caches, and times can be compared. If the process is
  killed at any moment and `run` is called again, the result is the same, bit
  for bit. Ctrl-C and SIGTERM end the run with a checkpoint; see `signals`.

  The directory gets the `checkpoints`, from which the run resumes. The header
  of the run is `runs.header` and what is `beside` it. With `keep_curves`, the
  course has losses and weights of all steps.

  Returns:
    The course at the end of training.
  """
  observer = observer or Observer()
  header = {**runs.header(config), **beside}
  header['data'] = inputs[0].fingerprints()
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      contextlib.closing(checkpoints_lib.Checkpoints(directory))
    )
    course = _begin_or_resume(
      programs, inputs, checkpoints, config, header, observer, keep_curves
    )
    for one in inputs:
      one.train.seek(course.step)
    stopping = stack.enter_context(signals.Stopping())
    bar = stack.enter_context(
      tqdm.tqdm(
        initial=course.step * len(programs),
        total=config.steps * len(programs),
        desc=label,
        unit='step',
        # Of a file each state of the bar makes the line longer.
        mininterval=0.5 if sys.stderr.isatty() else 30,
        disable=jax.process_index() > 0,
      )
    )
    every = config.checkpoint_every_steps
    while course.step < config.steps and not stopping.is_due(course.step):
      end = _end_of_turn(course.step, config)
      batches = _Batches(programs, inputs, course.step, end, stopping)
      turn = course.step // config.log_every_steps
      for name in _rotated(list(programs), turn):
        bar.set_postfix_str(name, refresh=False)
        metrics = _take_turn(name, programs[name], course, inputs, batches, bar)
        words = observer.turn(batches.end, name, metrics, course.states[name])
        bar.set_postfix_str(words, refresh=False)
        if keep_curves:
          _write_curves(course, name, metrics, batches, config)
      course = course._replace(step=batches.end)
      if course.step % every == 0 or course.step == config.steps:
        observer.checkpoint(course.step, course.states)
        _save(checkpoints, programs, course, observer)
    # A stop asked for in the last turn counts, too: the command may have more
    # to do after this training.
    is_stopped = stopping.is_due(course.step)
    if course.step < config.steps and course.step % every:
      _save(checkpoints, programs, course, observer)
  if is_stopped:
    stopping.exit(directory, course.step)
  return course


class _Batches:
  """The batches of one turn.

  For programs of many runs, which have a layout, all batches are loaded up
  front, so that no program's time includes loading. A single run loads them
  one by one while the device computes.
  """

  def __init__(
    self,
    programs: Mapping[str, program_lib.Program],
    inputs: Sequence[data.Data],
    begin: int,
    end: int,
    stopping: signals.Stopping,
  ) -> None:
    self.begin, self.end = begin, end
    self._inputs, self._stopping = inputs, stopping
    layouts = {program.layout for program in programs.values()}
    self._read = [] if None in layouts else [*self._reading(begin, end)]
    self._fed: dict[Any, Any] = {}

  def feed(self, program: program_lib.Program, low: int, high: int) -> Any:
    """What a program's `advance` takes, for the steps from `low` to `high`."""
    if program.layout is None:
      return program.feed(self._until_stopped(low, high))
    key = (program.layout, low, high)
    if key not in self._fed:
      steps = self._read[low - self.begin : high - self.begin]
      self._fed[key] = program.feed(steps)
    return self._fed[key]

  def _reading(self, low: int, high: int) -> Iterator[list[Any]]:
    return ([next(one.train) for one in self._inputs] for _ in range(low, high))

  def _until_stopped(self, low: int, high: int) -> Iterator[list[Any]]:
    """Yields batches as they load; ends the turn early if asked to stop."""
    for step, rows in enumerate(self._reading(low, high), start=low + 1):
      yield rows
      if step < self.end and self._stopping.is_due(step):
        self.end = step
        return


def _take_turn(
  name: str,
  program: program_lib.Program,
  course: Course,
  inputs: Sequence[data.Data],
  batches: _Batches,
  bar: Any,
) -> Metrics:
  """Takes one program's turn with its rehearsals; returns its metrics."""
  due = program.rehearsals.is_due
  # The turn is cut where a rehearsal is due.
  inside = filter(due, range(batches.begin + 1, batches.end))
  cuts = [batches.begin, *inside, batches.end]
  seconds, metrics = 0.0, []
  for low, high in itertools.pairwise(cuts):
    if due(low):
      course.states[name], spent = program.rehearsals.run(
        course.states[name], inputs, low
      )
      course.rehearsed[name].append(spent)
    course.states[name], found, spent = program.advance(
      course.states[name], batches.feed(program, low, high)
    )
    metrics.append(found)
    seconds += spent
    bar.update(min(high, batches.end) - low)
    if batches.end <= high:  # the last part, or the run was asked to stop in it
      break
  course.seconds[name].append(seconds / (batches.end - batches.begin))
  return jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)


def _write_curves(
  course: Course,
  name: str,
  metrics: Metrics,
  batches: _Batches,
  config: config_dict.ConfigDict,
) -> None:
  """Copies the outputs' losses and weights in a turn into the curves."""
  steps = slice(batches.begin, batches.end)
  for kind in ('losses', 'weights'):
    curve = course.curves[f'{kind}/{name}']
    for i, objective in enumerate(['fused', *sorted(config.model.encoders)]):
      curve[:, steps, i] = metrics[kind][objective].T
  if 'conflicting' in metrics:
    course.curves[f'conflicting/{name}'][:, steps] = metrics['conflicting'].T


def _begin_or_resume(
  programs: Mapping[str, program_lib.Program],
  inputs: Sequence[data.Data],
  checkpoints: checkpoints_lib.Checkpoints,
  config: config_dict.ConfigDict,
  header: Mapping[str, Any],
  observer: Observer,
  keep_curves: bool,
) -> Course:
  """The course at the last checkpoint, or a new one if there is none."""
  for one in inputs:
    one.train.seek(0)
  rows = [next(one.train) for one in inputs]
  curves: dict[str, npt.NDArray[np.float32]] = {}
  for name, program in programs.items() if keep_curves else ():
    shape = program.num_runs, config.steps
    for kind in ('losses', 'weights'):
      number = len(config.model.encoders) + 1
      curves[f'{kind}/{name}'] = np.zeros((*shape, number), np.float32)
    if weighing.is_diagnosed(config):
      curves[f'conflicting/{name}'] = np.full(shape, np.nan, np.float32)
  shapes = {name: program.shapes(rows) for name, program in programs.items()}
  restored = checkpoints.restore(
    {'states': shapes, 'curves': jax.eval_shape(lambda: curves)}
  )
  if restored is None:
    observer.begin(header)
    return Course(
      step=0,
      states={name: program.init(rows) for name, program in programs.items()},
      curves=curves,
      seconds={name: [] for name in programs},
      rehearsed={name: [] for name in programs},
      header=dict(header),
    )
  arrays, progress = restored
  changed = fingerprints.differ(progress['header']['data'], header['data'])
  if changed:
    raise ValueError(
      f'The data set has changed since the run began: {changed} have other'
      ' rows. Put the old data set back, or give another --workdir.'
    )
  runs.warn_of_changes(progress['header'], header)
  if progress['step'] > config.steps:
    raise ValueError(
      f'config.steps is {config.steps}, but the run has already taken'
      f' {progress["step"]} steps. Give at least as many.'
    )
  observer.resume(progress.pop('observed'), progress['step'])
  states = {
    name: program.restore(arrays['states'][name], rows)
    for name, program in programs.items()
  }
  curves = {name: np.array(one) for name, one in arrays['curves'].items()}
  return Course(states=states, curves=curves, **progress)


def _save(
  checkpoints: checkpoints_lib.Checkpoints,
  programs: Mapping[str, program_lib.Program],
  course: Course,
  observer: Observer,
) -> None:
  progress = course._asdict() | {'observed': observer.kept()}
  states = {
    name: programs[name].save(state)
    for name, state in progress.pop('states').items()
  }
  arrays = {'states': states, 'curves': progress.pop('curves')}
  checkpoints.save(course.step, arrays, progress)


def _end_of_turn(begin: int, config: config_dict.ConfigDict) -> int:
  """The step where a turn ends: the next one to log or save, or the last.

  Examples:
    >>> every = {'log_every_steps': 10, 'checkpoint_every_steps': 25}
    >>> config = config_dict.ConfigDict({'steps': 34, **every})
    >>> ends = [0]
    >>> while ends[-1] < config.steps:
    ...   ends.append(_end_of_turn(ends[-1], config))
    >>> ends
    [0, 10, 20, 25, 30, 34]
  """
  ends = [
    (begin // every + 1) * every
    for every in (config.log_every_steps, config.checkpoint_every_steps)
  ]
  return min(config.steps, *ends)


def _rotated(names: list[str], turn: int) -> list[str]:
  """The names, starting with another one in each turn."""
  place = turn % len(names)
  return names[place:] + names[:place]
