"""Several comparisons, and one report over them.

  python -m experiments.study views
  python -m experiments.study testbed

A study runs `experiments.compare` on settings that differ in one thing, with
all recipes tuned on validation, and writes tables and a figure to `--reports`.
One that was killed goes on when the same command is given again.
"""

import pathlib
import re
import sys

import jax
from absl import flags

from experiments import compare
from experiments.core import configuration
from experiments.core import studies
from experiments.reporting import results as results_lib
from experiments.reporting import studies as reporting
from experiments.reporting.results import Results

_STUDIES = configuration.define_path(
  'studies', 'runs/study', 'Directory of the comparisons.'
)
_REPORTS = configuration.define_path(
  'reports', 'experiments/reports', 'Directory of the reports.'
)
_SEEDS = flags.DEFINE_integer('seeds', 10, 'Runs of each recipe.')
_TUNING_SEEDS = flags.DEFINE_integer(
  'tuning_seeds', 3, 'Runs of each variant of a grid.'
)
_SMOKE = flags.DEFINE_bool(
  'smoke', False, 'Few steps of narrow models, to see that it works.'
)


def run(
  study: reporting.Study,
  directory: pathlib.Path,
  seeds: int,
  tuning_seeds: int,
  smoke: bool = False,
) -> dict[reporting.Setting, Results]:
  """Runs the comparisons of a study, one below a directory each.

  Args:
    study: what to compare on what.
    directory: where the comparisons go; those that are there are taken.
    seeds: runs of each recipe.
    tuning_seeds: runs of each variant of a grid.
    smoke: whether to take each configuration's `smoke`.

  Returns:
    The results of each setting.
  """
  results = {}
  for i, setting in enumerate(study.settings):
    print(f'{study.title}: {setting.name} ({i + 1}/{len(study.settings)})')
    # By what is run: families may share a setting.
    words = [setting.config, *(f'{k}={v}' for k, v in setting.changes)]
    workdir = directory / re.sub(r'[^\w.=]+', '-', '-'.join(words))
    if not (workdir / 'results.jsonl').exists():
      config = studies.config_of(setting, seeds, tuning_seeds, smoke)
      compare.compare(config, workdir)
      jax.clear_caches()
    results[setting] = results_lib.read(workdir)
  return results


def main(argv: list[str]) -> None:
  """Runs the studies that are named, and prints where their reports are."""
  unknown = sorted(set(argv[1:]) - set(studies.STUDIES))
  if unknown or not argv[1:]:
    sys.exit(f'Name studies of {", ".join(studies.STUDIES)}; given {unknown}.')
  directory = pathlib.Path(_STUDIES.value).absolute()
  # The settings of a study share most programs.
  jax.config.update('jax_compilation_cache_dir', str(directory / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  for name in argv[1:]:
    study = studies.STUDIES[name]
    path = reporting.write(
      study,
      run(
        study,
        directory / name,
        _SEEDS.value,
        _TUNING_SEEDS.value,
        _SMOKE.value,
      ),
      pathlib.Path(_REPORTS.value) / name,
      f'python -m experiments.study {name}',
    )
    print(f'The report is {path}.')


if __name__ == '__main__':
  configuration.run(main, needs_config=False)
