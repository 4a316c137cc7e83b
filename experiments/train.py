"""Trains one model.

  python -m experiments.train \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

The run's directory holds its configuration, `metrics.jsonl`, TensorBoard
events and checkpoints. A run that was killed goes on where its last checkpoint
stands when the same command is given again, and ends bit for bit like one that
was not.

`--config.parallel` takes it from one device to all, see
`experiments.core.parallel`, and these flags to several processes, each given
the same command but for its number:

      --config.parallel=jit --coordinator=HOST_OF_PROCESS_0:PORT \
      --num_processes=2 --process_id=0

They share the run's directory, which the first of them writes.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Self

import jax
import optax
import tensorboardX
import tqdm
from absl import flags
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import parallel
from experiments.core import rehearsals
from experiments.core import runs
from experiments.core import training
from experiments.evaluation import evaluate

COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  "Address and port of process 0, of several; 'auto' where JAX finds the"
  ' processes by itself, as under Slurm.',
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes run together.'
)
PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this one is, from 0.'
)


def train(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
) -> dict[str, float]:
  """Trains the model that a configuration describes, or finishes doing so.

  Args:
    config: as the files in experiments/configs/ make it.
    workdir: the run's directory.
    manual_dir: the folder with the data set's downloaded files; needed when
      the data set is prepared, and not after.

  Returns:
    Scores on the test split; `evaluation.evaluate` names them.

  Raises:
    ValueError: if `workdir` holds a run of another configuration, or the
      devices or the method do not go with `config.parallel`.
    FloatingPointError: if so many steps in a row were not finite that the
      optimizer no longer skips them.
  """
  layout = parallel.make_layout(config.parallel)
  parallel.check_batch_size(layout, config.data.batch_size)
  with parallel.first_process_first():
    inputs = data.open_data(config, config.seed, manual_dir)
  experiment = training.make(config, inputs.steps_per_epoch, layout)
  if experiment.rehearsal is not None and jax.process_count() > 1:
    raise ValueError(
      f'The method {config.method.name!r} rehearses between steps, which it'
      f' does in one process, and there are {jax.process_count()}.'
    )
  workdir = runs.open_workdir(workdir, config)
  checkpoints = runs.Checkpoints(workdir)

  start_of_data = inputs.train.get_state()
  first = parallel.train_batch(layout, next(inputs.train))
  key = jax.random.key(config.seed)
  rows: list[dict[str, Any]] = [runs.header(config)]
  shapes = parallel.state_shapes(layout, experiment.init, key, first)
  restored = checkpoints.restore(shapes)
  if restored is None:
    init = parallel.compile_init(layout, experiment.init, shapes)
    state = init(key, first)
    inputs.train.set_state(start_of_data)
  else:
    state, progress = restored
    runs.warn_of_changes(progress['metrics'][0], rows[0])
    rows = progress['metrics']
    inputs.train.set_state(progress['loader'])

  train_step = parallel.compile_step(
    layout, experiment.train_step, shapes, config.donate_state
  )
  predict = parallel.compile_predict(
    layout,
    evaluate.make_predict(
      experiment.model,
      config.evaluation.noise_scale.to_dict(),
      data.finish(config),
    ),
  )
  rehearsing = rehearsals.Rehearsals(
    experiment,
    jax.jit,
    lambda batches: parallel.whole_batch(layout, batches[0]),
  )
  start = int(state.step)
  is_writer = jax.process_index() == 0
  with (
    _Log(workdir, rows, start, is_writer) as log,
    tqdm.tqdm(
      initial=start,
      total=config.steps,
      desc='train',
      unit='step',
      mininterval=0.5,
      disable=not is_writer,
    ) as progress_bar,
  ):
    for step in range(start + 1, config.steps + 1):
      if rehearsing.is_due(step - 1):
        state, _ = rehearsing.run(state, [inputs], step - 1)
        state = parallel.put(layout, state, shapes)
      batch = parallel.train_batch(layout, next(inputs.train))
      state, metrics = train_step(state, batch)
      progress_bar.update()
      is_last = step == config.steps
      if step % config.log_every_steps == 0 or is_last:
        values = jax.tree.map(float, jax.device_get(metrics))
        log.add({'step': step, 'split': 'train', **values})
        progress_bar.set_postfix_str(
          _summary(values, experiment.objectives), refresh=False
        )
      if step % config.checkpoint_every_steps == 0 or is_last:
        _check_finite(state, config.max_skipped_steps)
        for split in ('validation', 'test') if is_last else ('validation',):
          scores = {
            name: float(value)
            for name, value in evaluate.evaluate(
              predict,
              state.variables,
              inputs.evaluation(split),
              modalities=experiment.model.encoders,
              metrics=config.evaluation.metrics,
              noise_levels=config.evaluation.noise_levels,
              thorough=is_last,
              target=config.target,
            ).items()
          }
          log.add({'step': step, 'split': split, **scores})
        checkpoints.save(
          step, state, {'metrics': rows, 'loader': inputs.train.get_state()}
        )
  checkpoints.close()
  inputs.train.close()
  return {k: v for k, v in rows[-1].items() if k not in ('step', 'split')}


class _Log:
  """Rows of metrics: kept, and written as JSON lines and TensorBoard events."""

  def __init__(
    self,
    workdir: pathlib.Path,
    rows: list[dict[str, Any]],
    start: int,
    is_writer: bool,
  ) -> None:
    """Opens the files of a run.

    Args:
      workdir: the run's directory.
      rows: those up to now, to which more are added.
      start: the step up to which there are some.
      is_writer: whether this process writes them.
    """
    self._rows = rows
    self._is_writer = is_writer
    if is_writer:
      path = workdir / 'metrics.jsonl'
      # What was logged after the checkpoint will be logged again.
      runs.write_lines(path, rows)
      self._file = path.open('a')
      self._events = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=start + 1
      )

  def add(self, row: dict[str, Any]) -> None:
    """Adds a row."""
    self._rows.append(row)
    if self._is_writer:
      self._file.write(json.dumps(row) + '\n')
      self._file.flush()
      for name, value in _scalars(row):
        self._events.add_scalar(name, value, row['step'])

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    if self._is_writer:
      self._file.close()
      self._events.close()


def _check_finite(state: training.TrainState, max_skipped_steps: int) -> None:
  """Refuses to save what non-finite updates were applied to."""
  skipped = int(optax.tree.get(state.opt_state, 'notfinite_count'))
  if skipped > max_skipped_steps:
    raise FloatingPointError(
      f'The last {skipped} steps up to step {int(state.step)} had non-finite'
      f' losses or gradients; expected at most {max_skipped_steps} in a row'
      ' (config.max_skipped_steps). The last checkpoint is from before them:'
      ' lower the learning rate, or look at the data.'
    )


def _scalars(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
  """TensorBoard's names and values of a row of metrics."""
  for name, value in row.items():
    if isinstance(value, dict):
      for key, number in value.items():
        yield f'{row["split"]}/{name}/{key}', number
    elif name not in ('step', 'split'):
      yield f'{row["split"]}/{name}', value


def _summary(
  values: dict[str, dict[str, float]], objectives: tuple[str, ...]
) -> str:
  """Loss*weight of each objective, for the progress bar."""
  return ' '.join(
    f'{name} {values["losses"][name]:.2f}*{values["weights"][name]:.2f}'
    for name in objectives
  )


def main(argv: list[str]) -> None:
  """Trains, and prints the scores on the test split."""
  del argv
  config = configuration.CONFIG.value
  workdir = pathlib.Path(
    configuration.WORKDIR.value or runs.default_workdir('train', config)
  )
  with parallel.processes(
    COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
  ):
    scores = train(config, workdir, configuration.MANUAL_DIR.value)
    if jax.process_index() > 0:
      return
  print(f'Test split after {config.steps} steps:')
  for name, score in scores.items():
    print(f'  {name:<28}{score:8.4f}')
  print(f'Metrics, TensorBoard events and checkpoints are in {workdir}.')


if __name__ == '__main__':
  configuration.run(main)
