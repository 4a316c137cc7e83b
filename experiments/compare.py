r"""Compares recipes over seeds, on the same data, with one program per recipe.

  python -m experiments.compare \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

Every recipe in `config.compare` starts from the same parameters and sees the
same batches in the same order for the same number of steps. All seeds of a
recipe run in one compiled program.

With `--config.tuning.num_seeds=N`, recipes are tuned first: each has the same
number of candidates (learning rate, weight decay and its own hyperparameters),
trained on N seeds, and validation chooses among them; see `core.tuning`.

The directory holds `report.md` with its figures, `results.jsonl` and
`curves.npz`. If the comparison is killed, the same command resumes it from the
last checkpoint.

`--config.compare="('all',)"` compares all recipes that the model can take,
except the fixed `mimo_1` and `mimo_3`. Before a comparison of a hundred steps
or more, the command says how long it will take; `--dry` ends there.
"""

import os
import pathlib

from ml_collections import config_dict

from experiments.core import commands
from experiments.core import comparing
from experiments.core import compilation
from experiments.core import runs
from experiments.core import writers
from experiments.report import report
from experiments.study import planning

_LONG = 100  # steps, from which on the command says how long they take


def compare(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Trains and evaluates every recipe on every seed, and writes the report.

  Args:
    config: as the files in experiments/configs/ make it. Run `s` of a recipe is
      the run of `experiments.train` with that recipe's changes and the seed
      `config.seed + s`, to rounding. `config.compare` names the recipes, or
      all; the first is what the times of the others are relative to.
    workdir: the run's directory.
    manual_dir: the folder with the data set's downloaded files; needed when
      the data set is prepared, and not after.

  Returns:
    The path of the report.

  Raises:
    ValueError: if `workdir` holds a run of another configuration, or as
      `comparing.checked`.
  """
  return _compare(comparing.checked(config, manual_dir), workdir, manual_dir)


def _compare(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
) -> pathlib.Path:
  """Compares, after the configuration has been checked."""
  workdir = runs.open_workdir(workdir, config)
  rows, curves = comparing.run(config, workdir, manual_dir)
  runs.write_arrays(workdir / 'curves.npz', curves)
  runs.write_lines(workdir / 'results.jsonl', rows)
  return report.write(workdir)


def main(argv: list[str]) -> None:
  """Compares, and prints the report's tables."""
  del argv
  config = commands.CONFIG.value
  workdir = commands.workdir('compare', config)
  manual_dir = commands.MANUAL_DIR.value
  config = comparing.checked(config, manual_dir)
  writers.warn_of_many(config.writers)
  is_new = not (workdir / 'config.json').exists()
  if planning.DRY.value or (is_new and config.steps >= _LONG):
    print(planning.of_one(config, manual_dir), flush=True)
  if planning.DRY.value:
    return
  with compilation.kept():
    path = _compare(config, workdir, manual_dir)
  print(report.tables(workdir))
  print(f'The report, with figures, is {path}.')


if __name__ == '__main__':
  commands.run(main)
