"""What a single run logs: JSON lines, and `config.writers`."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
import optax

from experiments.core import configuration
from experiments.core import data
from experiments.core import engine
from experiments.core import program as program_lib
from experiments.core import runs
from experiments.core import scoring
from experiments.core import signature
from experiments.core import writers


class TrainingLog(engine.Observer):
  """Losses, weights and scores, in `metrics.jsonl` and by writers.

  And the signature of what was trained, for those who use it later.

  A checkpoint keeps how long the file was, and a run that goes on cuts it
  there: what was logged after the checkpoint will be logged again. Of several
  processes the first one writes.

  Attributes:
    scores: of the last evaluation: on test, when training has ended.
  """

  def __init__(
    self,
    program: program_lib.Program,
    inputs: Sequence[data.Data],
    workdir: pathlib.Path,
  ) -> None:
    """Opens nothing yet.

    Raises:
      ModuleNotFoundError, ValueError: if a writer is not to be had.
    """
    self._config = config = program.config
    self._program, self._inputs = program, inputs
    self._workdir = workdir
    self._path = workdir / 'metrics.jsonl'
    self._is_writer = jax.process_index() == 0
    self._file: Any = None
    self._makers = writers.makers(config.get('writers', ('tensorboard',)))
    self._writers: list[writers.Writer] = []
    self.scores: dict[str, float] = {}

  def begin(self, header: Mapping[str, Any]) -> None:
    """Begins a new file with a header."""
    if self._is_writer:
      runs.write_lines(self._path, [header])
      self._open(0)

  def resume(self, kept: Any, step: int) -> None:
    """Cuts the file where it was when the checkpoint was made.

    Raises:
      ValueError: if it has become shorter since.
    """
    self.scores = kept['scores']
    if not self._is_writer:
      return
    found = self._path.stat().st_size if self._path.exists() else 0
    if found < kept['length']:
      raise ValueError(
        f'{self._path} has {found} bytes, and had {kept["length"]} when the'
        ' last checkpoint was made: rows are lost. Put the file back, or remove'
        f' {self._workdir} to start anew.'
      )
    os.truncate(self._path, kept['length'])
    self._open(step)

  def turn(
    self, step: int, name: str, metrics: engine.Metrics, state: engine.State
  ) -> str:
    """Logs the last step, if its turn to be logged has come.

    Raises:
      FloatingPointError: if non-finite updates were applied to the state.
    """
    del name
    last = jax.tree.map(lambda leaf: float(leaf[-1, 0]), dict(metrics))
    config = self._config
    if step % config.log_every_steps == 0 or step == config.steps:
      self._add({'step': step, 'split': 'train', **last})
    _check_finite(state, config.max_skipped_steps)
    return ' '.join(
      f'{name} {last["losses"][name]:.2f}*{last["weights"][name]:.2f}'
      for name in ('fused', *sorted(config.model.encoders))
    )

  def checkpoint(self, step: int, states: Mapping[str, engine.State]) -> None:
    """Evaluates; after the last step thoroughly, and on the test split."""
    (state,) = states.values()
    is_last = step == self._config.steps
    for split in ('validation', 'test') if is_last else ('validation',):
      scores = scoring.score(
        self._program, state, self._inputs, split, thorough=is_last
      )
      self.scores = {name: float(value[0]) for name, value in scores.items()}
      self._add({'step': step, 'split': split, **self.scores})

  def kept(self) -> dict[str, Any]:
    """How long the file is, which is on the disk then, and the last scores."""
    length = 0
    if self._is_writer:
      os.fsync(self._file.fileno())
      for writer in self._writers:
        writer.flush()
      length = self._path.stat().st_size
    return {'length': length, 'scores': self.scores}

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: object, *_: object) -> None:
    if self._file is not None:
      with runs.writing(self._path):
        self._file.close()
    for writer in self._writers:
      writer.close(is_done=kind is None)

  def _open(self, step: int) -> None:
    # Not before: data may be refused that are not those of the run.
    signature.write(self._workdir, signature.of(self._inputs[0]))
    self._file = self._path.open('a')
    config = json.loads(configuration.dump(self._config))
    for make in self._makers:
      self._writers.append(make(self._workdir, config, step))

  def _add(self, row: Mapping[str, Any]) -> None:
    if self._is_writer:
      with runs.writing(self._path):
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()
      for writer in self._writers:
        writer.add(writers.numbers(row), row['step'])


def _check_finite(state: Any, max_skipped_steps: int) -> None:
  """Refuses to go on with what non-finite updates were applied to."""
  skipped = int(np.asarray(optax.tree.get(state.opt_state, 'notfinite_count')))
  if skipped > max_skipped_steps:
    raise FloatingPointError(
      f'The last {skipped} steps up to step {int(state.step)} had non-finite'
      f' losses or gradients; expected at most {max_skipped_steps} in a row'
      ' (config.max_skipped_steps). A checkpoint is from before them, if any:'
      ' lower the learning rate, or look at the data: a label that is NaN, or'
      ' no class, makes losses NaN.'
    )
