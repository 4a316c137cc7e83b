r"""Trains one model.

  python -m experiments.train \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

The run's directory holds its configuration, `metrics.jsonl`, TensorBoard
events, checkpoints and, at the end, all numbers as `results.csv`. If the run is
killed, give the same command again: it resumes from the last checkpoint and
ends with the same numbers, bit for bit.

To use all devices, set `--config.parallel`; see `experiments.core.placement`.
To use several processes, give each the same command, with its own number:

      --config.parallel=jit --coordinator=HOST_OF_PROCESS_0:PORT \
      --num_processes=2 --process_id=0

They share the run's directory; the first process writes it.
"""

import os
import pathlib

import jax
from ml_collections import config_dict

from experiments.core import commands
from experiments.core import data
from experiments.core import engine
from experiments.core import logs
from experiments.core import processes
from experiments.core import program
from experiments.core import runs
from experiments.report import tables
from experiments.report import tidy


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
    Scores on the test split; `evaluate.evaluate` names them.

  Raises:
    ValueError: if `workdir` holds a run of another configuration, or the
      devices or the method do not go with `config.parallel`.
    FloatingPointError: if so many steps in a row were not finite that the
      optimizer no longer skips them.
  """
  with processes.first_process_first():
    inputs = data.open_data(config, config.seed, manual_dir)
  made = program.alone(config, inputs.steps_per_epoch)
  may_change = runs.MAY_CHANGE | {'steps'}  # a run may be made longer
  workdir = runs.open_workdir(workdir, config, may_change)
  with logs.TrainingLog(made, [inputs], workdir) as log:
    engine.run(
      {'': made},
      [inputs],
      workdir,
      config,
      label='train',
      observer=log,
    )
  inputs.train.close()
  if jax.process_index() == 0:
    rows = runs.read_lines(workdir / 'metrics.jsonl')
    tidy.write(workdir, {workdir.name: rows})
  return log.scores


def main(argv: list[str]) -> None:
  """Trains, and prints the scores on the test split."""
  del argv
  config = commands.CONFIG.value
  workdir = commands.workdir('train', config)
  with processes.connected():
    scores = train(config, workdir, commands.MANUAL_DIR.value)
    if jax.process_index() > 0:
      return
  print(f'Test split after {config.steps} steps:')
  width = max(map(len, scores))
  for name, score in scores.items():
    print(f'  {name:<{width}} {tables.score(score):>8}')
  print(f'Metrics and checkpoints are in {workdir}.')


if __name__ == '__main__':
  commands.run(main)
