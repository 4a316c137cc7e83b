"""Runs several comparisons, and writes one report over them.

  python -m experiments.study testbed
  python -m experiments.study views
  python -m experiments.study real
  python -m experiments.study arrays:FILE.npz

A study runs `experiments.compare` on several settings, with all recipes tuned
on validation with the same number of candidates, and writes a report. A file of
experiments/configs, as in the last line on your own data, is a study of one
setting. The command first says how long it will take; if killed, it resumes.
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
  'studies', 'runs/study', 'Directory for the comparisons.'
)
_REPORTS = commands.define_path(
  'reports', 'experiments/reports', 'Directory for the reports.'
)
_SETTINGS = flags.DEFINE_list(
  'settings',
  None,
  'Settings to run, such as "HTAD" or "imbalance 4,slowness 4"; default: all.',
)
_AT_A_TIME = flags.DEFINE_integer(
  'at_a_time',
  1,
  'How many settings run side by side, each on one CPU core.',
  lower_bound=1,
)
# Arguments of `studies.config_of`.
_NUMBERS: dict[str, flags.FlagHolder[Any]] = {
  'seeds': flags.DEFINE_integer(
    'seeds',
    None,
    'Runs of each recipe. The default depends on the setting, mostly 10.',
    lower_bound=1,
  ),
  'candidates': flags.DEFINE_integer(
    'candidates',
    None,
    'Candidates of each recipe, and as many again if search spaces grow. The'
    ' default depends on the setting, mostly 5.',
    lower_bound=1,
  ),
  'tuning_seeds': flags.DEFINE_integer(
    'tuning_seeds',
    None,
    'Runs of each candidate; 0 tunes nothing. The default depends on the'
    ' setting, mostly 3.',
    lower_bound=0,
  ),
  'compared': flags.DEFINE_list(
    'recipes', None, 'Recipes to compare, the reference first; default: all.'
  ),
  'smoke': flags.DEFINE_bool('smoke', False, 'A few steps of narrow models.'),
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
