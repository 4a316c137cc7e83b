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
import sys
from typing import Any

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
# Arguments of `studies.config_of`.
_NUMBERS: dict[str, flags.FlagHolder[Any]] = {
  'seeds': flags.DEFINE_integer(
    'seeds',
    None,
    'Runs of each recipe; by default as each setting says, mostly 10.',
    lower_bound=1,
  ),
  'candidates': flags.DEFINE_integer(
    'candidates',
    None,
    'Candidates of each recipe; where its space grows, as many more. By default'
    ' as each setting says, mostly 5.',
    lower_bound=1,
  ),
  'tuning_seeds': flags.DEFINE_integer(
    'tuning_seeds',
    None,
    'Runs of each candidate, by default as each setting says, mostly 3; 0:'
    ' nothing is tuned.',
    lower_bound=0,
  ),
  'compared': flags.DEFINE_list(
    'recipes', None, 'Recipes to compare, the reference first; by default all.'
  ),
  'smoke': flags.DEFINE_bool('smoke', False, 'Few steps of narrow models.'),
}


def main(argv: list[str]) -> None:
  """Runs studies, and prints where their reports are."""
  if not argv[1:]:
    sys.exit(f'Name a study: {", ".join(studies.STUDIES)}, or a configuration.')
  directory = pathlib.Path(_STUDIES.value).absolute()
  given = commands.as_given(*_NUMBERS.values(), _SETTINGS)
  numbers = {name: flag.value for name, flag in _NUMBERS.items()}
  with compilation.kept_in(directory / 'compiled'):
    for word, study in {w: studies.named(w) for w in argv[1:]}.items():
      some = planning.some(study, _SETTINGS.value)
      folder = directory / planning.folder(word)
      planned = planning.plans(
        some, folder, commands.MANUAL_DIR.value, **numbers
      )
      print(planning.forecast(planned, _AT_A_TIME.value), flush=True)
      if planning.DRY.value:
        continue
      path = reporting.write(
        study,
        planning.run(study, planned, compare.compare, _AT_A_TIME.value),
        pathlib.Path(_REPORTS.value) / folder.name,
        ' '.join(['python -m experiments.study', word, *given]),
      )
      print(f'The report is {path}.')


if __name__ == '__main__':
  commands.run(main, needs_config=False)
