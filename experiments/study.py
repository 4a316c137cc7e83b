"""Several comparisons, and one report over them.

  python -m experiments.study testbed
  python -m experiments.study views
  python -m experiments.study real

A study runs `experiments.compare` on several settings, with all recipes tuned
on validation with the same number of candidates, and writes tables and figures
to `--reports`. It says before it starts how long it will take. One that was
killed goes on when the same command is given again.
"""

import contextlib
import functools
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_dict

from experiments import compare
from experiments.core import configuration
from experiments.core import estimates
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
_SEEDS = flags.DEFINE_integer(
  'seeds', None, 'Runs of each recipe; by default as each setting says.'
)
_CANDIDATES = flags.DEFINE_integer(
  'candidates',
  5,
  'Candidates of each recipe; where its space grows, as many more.',
)
_TUNING_SEEDS = flags.DEFINE_integer(
  'tuning_seeds', 3, 'Runs of each candidate.'
)
_RECIPES = flags.DEFINE_list(
  'recipes', None, 'Recipes to compare, the reference first; by default all.'
)
_DRY = flags.DEFINE_bool('dry', False, 'Say how long it will take, and end.')
_SMOKE = flags.DEFINE_bool(
  'smoke', False, 'Few steps of narrow models, to see that it works.'
)


class Plan(NamedTuple):
  """A comparison of a study."""

  config: Callable[[], config_dict.ConfigDict]
  workdir: pathlib.Path
  manual_dir: str | os.PathLike[str] | None

  @property
  def is_done(self) -> bool:
    """Whether its results are there."""
    return (self.workdir / 'results.jsonl').exists()


def plans(
  study: reporting.Study,
  directory: pathlib.Path,
  *,
  seeds: int | None,
  candidates: int,
  tuning_seeds: int,
  smoke: bool = False,
  manual_dir: str | os.PathLike[str] | None = None,
  compared: Sequence[str] = (),
) -> dict[reporting.Setting, Plan]:
  """The comparisons of a study, a directory each.

  Args:
    study: what to compare on what.
    directory: below which they go; those that are there are taken.
    seeds: runs of each recipe; None: as each setting says.
    candidates: of each recipe, at first and where its space grows.
    tuning_seeds: runs of each candidate.
    smoke: whether to take each configuration's `smoke`.
    manual_dir: the folder with the files of data sets that need them.
    compared: recipes, the first of which is the reference; by default all.
  """
  found = {}
  for setting in study.settings:
    # By what is run: families may share a setting.
    words = [setting.config, *(f'{k}={v}' for k, v in setting.changes)]
    config = studies.config_of(
      setting,
      seeds or setting.seeds,
      candidates,
      tuning_seeds,
      smoke,
      compared,
    )
    # Only once it is needed: it opens the data.
    running = functools.cache(
      functools.partial(studies.of_what_runs, config, manual_dir)
    )
    name = re.sub(r'[^\w.=]+', '-', '-'.join(words))
    found[setting] = Plan(running, directory / name, manual_dir)
  return found


def run(
  study: reporting.Study, planned: Mapping[reporting.Setting, Plan]
) -> dict[reporting.Setting, Results]:
  """Runs the comparisons of a study, or finishes doing so.

  Returns:
    The results of each setting.
  """
  results = {}
  for i, (setting, plan) in enumerate(planned.items(), start=1):
    print(f'{study.title}: {setting.name} ({i}/{len(planned)})')
    if not plan.is_done:
      compare.compare(plan.config(), plan.workdir, plan.manual_dir)
      jax.clear_caches()
    results[setting] = results_lib.read(plan.workdir)
  return results


@contextlib.contextmanager
def _compiling_into(directory: str) -> Iterator[None]:
  """Keeps what is compiled in a directory; what is elsewhere is not seen."""
  settings: Any = jax.config  # whose attributes have no types
  before = settings.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', directory)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
    compilation_cache.reset_cache()


def forecast(planned: Mapping[reporting.Setting, Plan]) -> str:
  """How long the comparisons that are not done will take, for people."""
  # Or what an earlier forecast compiled would seem to take no time.
  with tempfile.TemporaryDirectory() as folder, _compiling_into(folder):
    return _forecast(planned)


def _forecast(planned: Mapping[reporting.Setting, Plan]) -> str:
  left = {
    plan.workdir: (setting, plan)
    for setting, plan in planned.items()
    if not plan.is_done
  }
  lines, total = [], 0.0
  for setting, plan in left.values():
    found = estimates.estimate(plan.config(), studies.COSTS, plan.manual_dir)
    jax.clear_caches()
    total += found.seconds
    lines.append(
      f'  {setting.name}: {found.seconds / 60:.0f} min, of which'
      f' {found.compiling / 60:.0f} to compile what no earlier one has'
    )
    lines += [
      f'    without {recipe}: {reason}'
      for recipe, reason in plan.config().left_out.items()
    ]
  return '\n'.join(
    [
      f'{len(left)} of {len(planned)} comparisons are left. On this machine, as'
      f' busy as it is now, they take about {total / 60:.0f} minutes (between a'
      ' half and twice that):',
      *lines,
    ]
  )


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
    planned = plans(
      study,
      directory / name,
      seeds=_SEEDS.value,
      candidates=_CANDIDATES.value,
      tuning_seeds=_TUNING_SEEDS.value,
      smoke=_SMOKE.value,
      manual_dir=configuration.MANUAL_DIR.value,
      compared=_RECIPES.value or (),
    )
    print(forecast(planned), flush=True)
    if _DRY.value:
      continue
    path = reporting.write(
      study,
      run(study, planned),
      pathlib.Path(_REPORTS.value) / name,
      f'python -m experiments.study {name}',
    )
    print(f'The report is {path}.')


if __name__ == '__main__':
  configuration.run(main, needs_config=False)
