"""Several comparisons, and one report over them.

  python -m experiments.study testbed
  python -m experiments.study views
  python -m experiments.study real
  python -m experiments.study arrays:FILE.npz

A study runs `experiments.compare` on several settings, all recipes tuned on
validation with the same number of candidates, and writes its report; a file of
experiments/configs, here of one's own data, is one setting. It says first how
long it takes. Killed, the same command goes on.
"""

import pathlib
import shlex
import sys

from absl import flags

from experiments import compare
from experiments.core import commands
from experiments.core import compilation
from experiments.study import planning
from experiments.study import reporting
from experiments.study import studies

_STUDIES = commands.define_path(
  'studies', 'runs/study', 'Directory of the comparisons.'
)
_REPORTS = commands.define_path(
  'reports', 'experiments/reports', 'Directory of the reports.'
)
_SEEDS = flags.DEFINE_integer(
  'seeds',
  None,
  'Runs of each recipe; by default as each setting says, mostly 10.',
  lower_bound=1,
)
_CANDIDATES = flags.DEFINE_integer(
  'candidates',
  None,
  'Candidates of each recipe; where its space grows, as many more. By default'
  ' as each setting says, mostly 5.',
  lower_bound=1,
)
_TUNING_SEEDS = flags.DEFINE_integer(
  'tuning_seeds',
  None,
  'Runs of each candidate, by default as each setting says, mostly 3; 0:'
  ' nothing is tuned.',
  lower_bound=0,
)
_RECIPES = flags.DEFINE_list(
  'recipes', None, 'Recipes to compare, the reference first; by default all.'
)
_SETTINGS = flags.DEFINE_list(
  'settings',
  None,
  'Settings to run, as "HTAD" or "imbalance 4,slowness 4"; by default all.',
)
_AT_A_TIME = flags.DEFINE_integer(
  'at_a_time',
  1,
  'Settings that run side by side, on as many CPU cores.',
  lower_bound=1,
)
_SMOKE = flags.DEFINE_bool('smoke', False, 'Few steps of narrow models.')


def _what_changes() -> list[str]:
  """The flags of the command that change what is measured."""
  changing = (_CANDIDATES, _RECIPES, _SEEDS, _SETTINGS, _SMOKE, _TUNING_SEEDS)
  return [
    shlex.quote(flags.FLAGS[flag.name].serialize())
    for flag in changing
    if flag.present
  ]


def main(argv: list[str]) -> None:
  """Runs studies, and prints where their reports are."""
  if not argv[1:]:
    sys.exit(f'Name a study: {", ".join(studies.STUDIES)}, or a configuration.')
  directory = pathlib.Path(_STUDIES.value).absolute()
  with compilation.kept_in(directory / 'compiled'):
    for word, study in {w: studies.named(w) for w in argv[1:]}.items():
      name = planning.folder(word)
      planned = planning.plans(
        planning.some(study, _SETTINGS.value),
        directory / name,
        seeds=_SEEDS.value,
        candidates=_CANDIDATES.value,
        tuning_seeds=_TUNING_SEEDS.value,
        smoke=_SMOKE.value,
        manual_dir=commands.MANUAL_DIR.value,
        compared=_RECIPES.value or (),
      )
      print(planning.forecast(planned, _AT_A_TIME.value), flush=True)
      if planning.DRY.value:
        continue
      command = ['python -m experiments.study', word, *_what_changes()]
      path = reporting.write(
        study,
        planning.run(study, planned, compare.compare, _AT_A_TIME.value),
        pathlib.Path(_REPORTS.value) / name,
        ' '.join(command),
      )
      print(f'The report is {path}.')


if __name__ == '__main__':
  commands.run(main, needs_config=False)
