"""Plans the comparisons of a study, and how long they take."""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import config_dict

from experiments.core import compilation
from experiments.core import refusals
from experiments.core import runs
from experiments.core import variants
from experiments.report import results as results_lib
from experiments.report import tidy
from experiments.report.results import Results
from experiments.study import estimates
from experiments.study import reporting
from experiments.study import side_by_side
from experiments.study import studies

DRY = flags.DEFINE_bool('dry', False, 'Say how long it will take, and end.')


class Plan(NamedTuple):
  """A comparison of a study."""

  config: Callable[[], config_dict.ConfigDict]
  workdir: pathlib.Path
  manual_dir: str | os.PathLike[str] | None

  @property
  def is_done(self) -> bool:
    """Whether its results exist."""
    return (self.workdir / 'results.jsonl').exists()


def plans(
  study: reporting.Study,
  directory: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None = None,
  **numbers: Any,
) -> dict[reporting.Setting, Plan]:
  """The comparisons of a study, a directory each.

  Args:
    study: what to compare on what.
    directory: below which their results are, or are to be written.
    manual_dir: the folder with the files of data sets that need them.
    **numbers: as `studies.config_of` takes them.

  Raises:
    ValueError: if there are results of a comparison with other numbers.
  """
  found = {}
  known: dict[str, dict[str, str]] = {}
  for setting in study.settings:
    # Named after what is run, since families may share a setting.
    words = [setting.config, *(f'{k}={v}' for k, v in setting.changes)]
    config = studies.config_of(setting, **numbers)
    # Called only when it is needed, since it opens the data.
    running = functools.cache(
      functools.partial(refusals.of_what_runs, config, manual_dir, known)
    )
    found[setting] = Plan(running, directory / folder(*words), manual_dir)
    if found[setting].is_done:
      _check_alike(
        found[setting].workdir, config, bool(numbers.get('compared'))
      )
  return found


def _check_alike(
  workdir: pathlib.Path, config: config_dict.ConfigDict, of_some: bool
) -> None:
  """Refuses results of other numbers of steps, seeds and candidates.

  If some recipes were asked for, results of others are refused, too.
  """
  there = config_dict.ConfigDict(results_lib.read(workdir).config)
  recipes = {*there.compare, *there.get('left_out', {})}
  if of_some and recipes != set(config.compare):
    raise ValueError(
      f'{workdir} has results of the recipes {sorted(recipes)}; you asked for'
      f' {sorted(config.compare)}. Give the same --recipes, or another'
      ' --studies.'
    )
  for key in (
    'steps',
    'num_seeds',
    'tuning.num_seeds',
    'tuning.num_candidates',
  ):
    ours, theirs = (variants.present_value(one, key) for one in (config, there))
    if ours != theirs:
      raise ValueError(
        f'{workdir} has results of {key}={theirs}; you asked for {ours}. Give'
        ' the same number, or another --studies.'
      )


def folder(*words: str) -> str:
  """The name of a folder, made of words.

  Examples:
    >>> folder('arrays:mine.npz', 'data.redraw=True')
    'arrays-mine.npz-data.redraw=True'
  """
  return re.sub(r'[^\w.=]+', '-', '-'.join(words))


def run(
  study: reporting.Study,
  planned: Mapping[reporting.Setting, Plan],
  compare: Callable[..., Any],
  at_a_time: int = 1,
) -> dict[reporting.Setting, Results]:
  """Runs the comparisons of a study, or resumes doing so.

  All their scores are written to `results.csv`, beside their directories.

  Args:
    study: to be run.
    planned: its comparisons.
    compare: runs one of them, as `experiments.compare.compare`.
    at_a_time: how many run side by side.

  Returns:
    The results of each setting.
  """
  left = _left(planned)
  if at_a_time > 1 and left:
    side_by_side.run(
      {
        folder(setting.name): functools.partial(
          compare, plan.config(), plan.workdir, plan.manual_dir
        )
        for setting, plan in left
      },
      at_a_time,
      left[0][1].workdir.parents[1],
    )
  results = {}
  for i, (setting, plan) in enumerate(planned.items(), start=1):
    print(f'{study.title}: {setting.name} ({i}/{len(planned)})')
    if not plan.is_done:
      compare(plan.config(), plan.workdir, plan.manual_dir)
      jax.clear_caches()
    results[setting] = results_lib.read(plan.workdir)
  rows = {
    setting.name: runs.read_lines(plan.workdir / 'results.jsonl')
    for setting, plan in planned.items()
  }
  tidy.write(next(iter(planned.values())).workdir.parent, rows)
  return results


@compilation.anew()  # or programs that were compiled before would take no time
def forecast(
  planned: Mapping[reporting.Setting, Plan], at_a_time: int = 1
) -> str:
  """How long the comparisons that are not done will take, for people."""
  left = _left(planned)
  # More at a time than there are cores are no faster.
  at_once = max(1, min(at_a_time, len(left), os.cpu_count() or 1))
  lines, total = [], 0.0
  for setting, plan in left:
    found = estimates.estimate(plan.config(), plan.manual_dir)
    jax.clear_caches()
    total += found.seconds
    lines += [
      f'  {setting.name}: {found.seconds / 60:.0f} min, of which'
      f' {found.compiling / 60:.0f} to compile what is new in it',
      *_left_out('    ', plan.config()),
    ]
  return '\n'.join(
    [
      f'{len(left)} of {len(planned)} comparisons are left. On this machine,'
      f' with its present load, they take about {total / 60 / at_once:.0f}'
      f' minutes (between half and twice that), {at_once} at a time:',
      *lines,
    ]
  )


@compilation.anew()
def of_one(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None = None,
) -> str:
  """How long one comparison will take, for people."""
  found = estimates.estimate(config, manual_dir)
  return '\n'.join(
    [
      f'{len(config.compare)} recipes. On this machine, with its present load,'
      f' they take about {found.seconds / 60:.1f} minutes (between half and'
      f' twice that), of which {found.compiling / 60:.1f} to compile:',
      f'  {", ".join(config.compare)}',
      *_left_out('  ', config),
    ]
  )


def _left(
  planned: Mapping[reporting.Setting, Plan],
) -> list[tuple[reporting.Setting, Plan]]:
  """The comparisons to do; for settings that share one, the last setting."""
  found = {
    plan.workdir: (setting, plan)
    for setting, plan in planned.items()
    if not plan.is_done
  }
  return list(found.values())


def _left_out(space: str, config: config_dict.ConfigDict) -> Iterator[str]:
  """Recipes that refuse the model, and why."""
  for recipe, reason in config.get('left_out', {}).items():
    yield f'{space}without {recipe}: {reason}'


def some(
  study: reporting.Study, names: Sequence[str] | None
) -> reporting.Study:
  """The study with only some of its settings; None: with all.

  Names are given without their commas, which separate them in `--settings`.

  Raises:
    ValueError: if there is no such setting.
  """
  known = {one.name.replace(',', ''): one for one in study.settings}
  if unknown := sorted(set(names or ()) - known.keys()):
    raise ValueError(
      f'--settings has {unknown}; the study has {sorted(known)}.'
    )
  return study._replace(settings=[known[name] for name in names or known])
