"""Trains one model.

  python -m experiments.train \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

The run's directory holds its configuration, `metrics.jsonl`, TensorBoard
events and checkpoints. A run that was killed goes on where its last checkpoint
stands when the same command is given again, and ends bit for bit like one that
was not.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import optax
import tensorboardX
import tqdm
from ml_collections import config_dict

from experiments import configuration
from experiments import data
from experiments import evaluation
from experiments import rehearsals
from experiments import runs
from experiments import training


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
    ValueError: if `workdir` holds a run of another configuration.
    FloatingPointError: if so many steps in a row were not finite that the
      optimizer no longer skips them.
  """
  inputs = data.open_data(config, config.seed, manual_dir)
  experiment = training.make(config, inputs.steps_per_epoch)
  workdir = runs.open_workdir(workdir, config)
  checkpoints = runs.Checkpoints(workdir)

  start_of_data = inputs.train.get_state()
  first = next(inputs.train)
  key = jax.random.key(config.seed)
  rows: list[dict[str, Any]] = [runs.header(config)]
  restored = checkpoints.restore(jax.eval_shape(experiment.init, key, first))
  if restored is None:
    state = jax.jit(experiment.init)(key, first)
    inputs.train.set_state(start_of_data)
  else:
    state, progress = restored
    runs.warn_of_changes(progress['metrics'][0], rows[0])
    rows = progress['metrics']
    inputs.train.set_state(progress['loader'])
  metrics_path = workdir / 'metrics.jsonl'
  # What was logged after the checkpoint will be logged again.
  runs.write_lines(metrics_path, rows)

  train_step = jax.jit(experiment.train_step, donate_argnums=0)
  predict = jax.jit(
    evaluation.make_predict(
      experiment.model,
      config.evaluation.noise_scale.to_dict(),
      data.finish(config),
    )
  )
  rehearsing = rehearsals.Rehearsals(
    experiment, jax.jit, lambda batches: batches[0]
  )
  start = int(state.step)
  events = tensorboardX.SummaryWriter(
    str(workdir / 'tensorboard'), purge_step=start + 1
  )
  with (
    metrics_path.open('a') as metrics_file,
    tqdm.tqdm(
      initial=start,
      total=config.steps,
      desc='train',
      unit='step',
      mininterval=0.5,
    ) as progress_bar,
  ):

    def log(row: dict[str, Any]) -> None:
      rows.append(row)
      metrics_file.write(json.dumps(row) + '\n')
      metrics_file.flush()
      for name, value in _scalars(row):
        events.add_scalar(name, value, row['step'])

    for step in range(start + 1, config.steps + 1):
      if rehearsing.is_due(step - 1):
        state, _ = rehearsing.run(state, [inputs], step - 1)
      state, metrics = train_step(state, next(inputs.train))
      progress_bar.update()
      is_last = step == config.steps
      if step % config.log_every_steps == 0 or is_last:
        values = jax.tree.map(float, jax.device_get(metrics))
        log({'step': step, 'split': 'train', **values})
        progress_bar.set_postfix_str(
          _summary(values, experiment.objectives), refresh=False
        )
      if step % config.checkpoint_every_steps == 0 or is_last:
        _check_finite(state, config.max_skipped_steps)
        for split in ('validation', 'test') if is_last else ('validation',):
          scores = {
            name: float(value)
            for name, value in evaluation.evaluate(
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
          log({'step': step, 'split': split, **scores})
        checkpoints.save(
          step, state, {'metrics': rows, 'loader': inputs.train.get_state()}
        )
  events.close()
  checkpoints.close()
  inputs.train.close()
  return {k: v for k, v in rows[-1].items() if k not in ('step', 'split')}


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
  scores = train(config, workdir, configuration.MANUAL_DIR.value)
  print(f'Test split after {config.steps} steps:')
  for name, score in scores.items():
    print(f'  {name:<28}{score:8.4f}')
  print(f'Metrics, TensorBoard events and checkpoints are in {workdir}.')


if __name__ == '__main__':
  configuration.run(main)
