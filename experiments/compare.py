r"""Compares recipes over seeds, on the same data, in one program a recipe.

  python -m experiments.compare \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

Every recipe of `config.compare` starts from the same parameters and sees the
same batches in the same order for the same number of steps. With
`config.tuning.num_seeds`, the same number of candidates of each recipe
(learning rate, weight decay and what is its own) are trained on as many seeds
first, and validation chooses among them, see `core.tuning`. All seeds of a
recipe are one compiled program. The directory ends up with `results.jsonl`,
`curves.npz`, `report.md` and its figures. A comparison that was killed goes on
from its last checkpoint.

`--config.compare="('all',)"` compares all recipes that a fair comparison has,
but those that refuse the model. How long it takes is said before it begins, if
it is a hundred steps or more; `--dry` ends then.
"""

import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import config_dict

from experiments.core import commands
from experiments.core import comparing
from experiments.core import compilation
from experiments.core import refusals
from experiments.core import runs
from experiments.core import writers
from experiments.report import report
from experiments.study import planning

_LONG = 100  # steps, from which on it is said how long they take


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
      `comparing.check`.
  """
  config = refusals.of_all(config, manual_dir)
  comparing.check(config)
  workdir = runs.open_workdir(workdir, config)
  rows, curves = comparing.run(config, workdir, manual_dir)
  named: Any = curves  # np.savez has keyword arguments of its own
  with runs.replacing(workdir / 'curves.npz') as path, path.open('wb') as file:
    np.savez_compressed(file, **named)
  runs.write_lines(workdir / 'results.jsonl', rows)
  return report.write(workdir)


def main(argv: list[str]) -> None:
  """Compares, and prints the report's tables."""
  del argv
  config = commands.CONFIG.value
  workdir = commands.workdir('compare', config)
  manual_dir = commands.MANUAL_DIR.value
  config = refusals.of_all(config, manual_dir)
  comparing.check(config)
  writers.warn_of_many(config.writers)
  is_new = not (workdir / 'config.json').exists()
  if planning.DRY.value or (is_new and config.steps >= _LONG):
    print(planning.of_one(config, manual_dir), flush=True)
  if planning.DRY.value:
    return
  with compilation.kept():
    path = compare(config, workdir, manual_dir)
  print(report.tables(workdir))
  print(f'The report, with figures, is {path}.')


if __name__ == '__main__':
  commands.run(main)
