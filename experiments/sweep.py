r"""Trains a model with many values of its configuration, over seeds.

  python -m experiments.sweep \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value] \
      --grid=weighting.penalty=0.3,1,3 --grid=weighting.temperature=0.1,0.3,1 \
      [--random=optimizer.learning_rate=log:1e-3:1e-1] \
      [--config.sweep.num_samples=16] [--config.num_seeds=4] \
      [--manual_dir=FOLDER_WITH_DOWNLOADED_FILES]

Runs that differ only in their seed and in floats of the computation (a penalty,
a temperature, a learning rate) share one compiled program, spread over the
devices. Any other value (a name, a width, a key of `data`) needs a program of
its own. For each seed, all variants see the same batches and start from the
same parameters.

The directory holds `results.jsonl`, a report and, for two float axes,
`heatmap.png`. If killed, the sweep is resumed by the same command. To train one
of its models alone, give `experiments.train` the values of its row.
"""

import os
import pathlib

from absl import flags
from ml_collections import config_dict

from experiments.core import commands
from experiments.core import compilation
from experiments.core import grouping
from experiments.core import runs
from experiments.core import sweeping
from experiments.core import together
from experiments.core import variants
from experiments.core import writers
from experiments.report import report

_GRID = flags.DEFINE_multi_string(
  'grid',
  [],
  'A key of the configuration and the values to try: weighting.penalty=0.3,1,3.'
  ' With several keys, one flag each, all combinations are tried.',
)
_RANDOM = flags.DEFINE_multi_string(
  'random',
  [],
  'A key of the configuration and the range or list from which to draw'
  ' config.sweep.num_samples values: optimizer.learning_rate=log:1e-3:1e-1,'
  ' linear:low:high, or value,value,...',
)


def sweep(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Trains and evaluates all runs of a sweep, or finishes doing so.

  Args:
    config: with `sweep`, see `variants.of_sweep`. Run `s` of a variant is the
      run of `experiments.train` with seed `config.seed + s`, to rounding.
    workdir: the sweep's directory.
    manual_dir: the folder with the data set's downloaded files; needed when
      the data set is prepared, and not after.

  Returns:
    The path of the report.

  Raises:
    ValueError: if `workdir` holds another sweep, a variant is wrong, or each
      run is to be on many devices.
  """
  tried = variants.of_sweep(config)
  together.check_single(config)
  grouping.check(config, tried)
  workdir = runs.open_workdir(workdir, config)
  path = workdir / 'results.jsonl'
  if not path.exists():
    rows, programs = sweeping.run_all(config, tried, workdir, manual_dir)
    header = runs.header(config) | {'kind': 'sweep', 'programs': programs}
    runs.write_lines(path, [header, *rows])
  return report.write(workdir)


def main(argv: list[str]) -> None:
  """Sweeps, and prints the report."""
  del argv
  config = variants.with_flags(
    commands.CONFIG.value, _GRID.value, _RANDOM.value
  )
  writers.warn_of_many(config.writers)
  workdir = commands.workdir('sweep', config)
  with compilation.kept():
    path = sweep(config, workdir, commands.MANUAL_DIR.value)
  print(report.tables(workdir))
  print(f'The report is {path}; results.jsonl beside it has every run.')


if __name__ == '__main__':
  commands.run(main)
