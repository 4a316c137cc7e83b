"""Several comparisons, and one report over them.

  python -m experiments.study views
  python -m experiments.study testbed

A study runs `experiments.compare` on settings that differ in one thing, with
all methods tuned on validation, and writes tables and a figure to `--reports`.
One that was killed goes on when the same command is given again.
"""

import importlib
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_dict

from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings as testbed_settings
from experiments import compare
from experiments import report
from experiments.core import runs
from experiments.evaluation import statistics
from experiments.methods import recipes
from experiments.reporting import figures

_SUBJECT = 'mimo'
_METHODS = recipes.tuned()

_STUDY_DIRECTORY = flags.DEFINE_string(
  'studies', 'runs/study', 'Directory of the comparisons.'
)
_REPORTS = flags.DEFINE_string(
  'reports', 'experiments/reports', 'Directory of the reports.'
)
_SEEDS = flags.DEFINE_integer('seeds', 10, 'Runs of each method.')
_TUNING_SEEDS = flags.DEFINE_integer(
  'tuning_seeds', 3, 'Runs of each candidate of a grid.'
)
_SMOKE = flags.DEFINE_bool(
  'smoke', False, 'Few steps of narrow models, to see that it works.'
)


class Setting(NamedTuple):
  """One comparison of a study."""

  family: str  # a row of the figure
  place: float  # on the axis
  config: str  # a file of experiments/configs and its argument
  changes: tuple[tuple[str, Any], ...] = ()  # dotted keys and values

  @property
  def name(self) -> str:
    """Its directory's name, and its row's in tables."""
    return f'{self.family}, {self.place:g}'


class Study(NamedTuple):
  """Settings that differ in one thing."""

  title: str
  axis: str | None  # what `place` is; None: what the family is named after
  settings: Sequence[Setting]
  about: str  # a paragraph for the report


STUDIES: Mapping[str, Study] = {
  'views': Study(
    title='Handwritten digits: two, three and six views',
    axis='training rows',
    settings=tuple(
      Setting(
        f'{views} views',
        rows,
        f'handwritten:{views}',
        (('data.train_fraction', rows / 1000),),
      )
      for views in ('two', 'three', 'six')
      for rows in (100, 300, 1000)
    ),
    about='Late fusion of an MLP (128, 64) a view, 600 steps of 64 rows.',
  ),
  'testbed': Study(
    title='The testbed: modalities of known Bayes accuracy',
    axis=None,
    settings=tuple(
      Setting(
        family,
        factor,
        f'synthetic:{"balanced" if factor == 1 else f"{family}_{factor}"}',
      )
      for family in ('imbalance', 'slowness')
      for factor in (1, 2, 4, 8)
    ),
    about='data_pipelines/synthetic, late fusion of an MLP (64) a modality, 600'
    ' steps of 64 rows. *imbalance*: one modality has that many times the'
    ' information of the other. *slowness*: both have the same, but the'
    ' signal of one is that many times smaller than its nuisance, so that'
    ' gradient descent finds it later. Imbalance 1 and slowness 1 are the same'
    ' setting. The best is the Bayes accuracy.',
  ),
}


def run(
  study: Study,
  directory: pathlib.Path,
  seeds: int,
  tuning_seeds: int,
  smoke: bool = False,
) -> dict[Setting, report.Results]:
  """Runs the comparisons of a study, or finishes doing so.

  Args:
    study: what to compare on what.
    directory: where the comparisons go, one below it each.
    seeds: runs of each method.
    tuning_seeds: runs of each candidate of a grid.
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
      compare.compare(_config(setting, seeds, tuning_seeds, smoke), workdir)
      jax.clear_caches()
    results[setting] = report.read(workdir)
  return results


def write(
  name: str,
  study: Study,
  results: Mapping[Setting, report.Results],
  directory: pathlib.Path,
) -> pathlib.Path:
  """Writes the report of a study: `report.md`, `lines.png`.

  Args:
    name: the study's.
    study: what was compared.
    results: of each setting.
    directory: where the report goes.

  Returns:
    The path of the report.
  """
  directory.mkdir(parents=True, exist_ok=True)
  measures = {
    setting: _measures(name, setting, one) for setting, one in results.items()
  }
  figures.lines(
    {
      (setting.family, setting.place): values
      for setting, values in measures.items()
    },
    study.axis,
    _SUBJECT,
    directory / 'lines.png',
  )
  header = next(iter(results.values())).header
  config = header['config']
  commits = ', '.join(
    dict.fromkeys(one.header['commit'] for one in results.values())
  )
  versions = ', '.join(f'{k} {v}' for k, v in header['versions'].items())
  path = directory / 'report.md'
  runs.write_text(
    path,
    f'# {study.title}\n\n{study.about}\n\n'
    'Every method has the same initial parameters, batches in the same order'
    ' and number of steps. What it may choose (at most four candidates) was'
    ' chosen by the fused accuracy on validation, mean over'
    f' {config["num_tuning_seeds"]} seeds; then'
    f' {config["num_seeds"]} seeds were trained and tested once.\n\n'
    f'![Every measure over {_axes(study)}](lines.png)\n\n'
    f'{tables(measures)}\n\n'
    f'## Against `{_SUBJECT}`\n\n{wins(measures)}\n\n'
    f'{choices(results)}'
    f'{times(results)}\n\n'
    f'Made by commit {commits} on {header["device"]}'
    f' ({header["num_devices"]}), with {versions}, by'
    f' `python -m experiments.study {name}`.\n',
  )
  return path


def tables(
  measures: Mapping[Setting, Mapping[str, Mapping[str, report.Values]]],
) -> str:
  """A table a measure, in Markdown: a row a method, a column a setting."""
  names = dict.fromkeys(name for one in measures.values() for name in one)
  return '\n\n'.join(
    f'**{name.capitalize()}**, test accuracy in %, mean ± standard error;'
    ' **bold** is the best of its column, = a tie with it.\n\n'
    + report.table(
      {
        setting.name: values[name]
        for setting, values in measures.items()
        if name in values
      }
    )
    for name in names
  )


def wins(
  measures: Mapping[Setting, Mapping[str, Mapping[str, report.Values]]],
) -> str:
  """How often the subject is above and below each other method."""
  # A setting that two families share counts once.
  once = {
    (setting.config, setting.changes): setting for setting in measures
  }.values()
  tests = {
    (name, setting, method): statistics.difference(values[_SUBJECT], others)
    for setting in once
    for name, values in measures[setting].items()
    for method, others in values.items()
    if method != _SUBJECT
  }
  keys = list(tests)
  corrected = statistics.holm({key: tests[key].p_value for key in keys})
  counts: dict[str, dict[str, list[int]]] = {}
  for key in keys:
    name, _, method = key
    count = counts.setdefault(name, {}).setdefault(method, [0, 0, 0])
    mean = tests[key].estimate.mean
    significant = corrected[key] < 0.05
    count[1 if not significant else 0 if mean > 0 else 2] += 1
  cells = {
    name: {method: ' / '.join(map(str, three)) for method, three in one.items()}
    for name, one in counts.items()
  }
  return (
    f'Number of settings in which `{_SUBJECT}` is above / not to be told from /'
    ' below each other method: paired t tests over seeds, 5 % after Holm for'
    f' all {len(tests)} of them.\n\n' + report.lines(cells)
  )


def choices(results: Mapping[Setting, report.Results]) -> str:
  """What validation chose, in Markdown: a row a method, a column a setting."""
  cells = {
    setting.name: {
      tuned['method']: ', '.join(
        f'{path.split(".")[-1]} {value}'
        for path, value in runs.best_candidate(tuned['candidates'])[
          'values'
        ].items()
      )
      for tuned in one.header.get('tuning', [])
      if len(tuned['candidates']) > 1
    }
    for setting, one in results.items()
  }
  if not any(cells.values()):
    return ''
  return f'What validation chose:\n\n{report.lines(cells)}\n\n'


def times(results: Mapping[Setting, report.Results]) -> str:
  """Seconds of a step by those of joint training, median over settings."""
  reference = _METHODS[0]
  medians = {
    method: np.median(
      [report.relative_time(one, method, reference) for one in results.values()]
    )
    for method in next(iter(results.values())).scores
  }
  cells = {
    f'time / {reference}': {
      method: f'{median:.2f}' for method, median in medians.items()
    }
  }
  return (
    'Seconds a step, with what a method does between steps shared out, all'
    ' seeds in one program, median over the settings. With networks as small as'
    ' these, much of it is not arithmetic.\n\n' + report.lines(cells)
  )


def _axes(study: Study) -> str:
  """What the axes of a study's figure are."""
  families = dict.fromkeys(setting.family for setting in study.settings)
  return study.axis or ' and '.join(families)


def _config(
  setting: Setting, seeds: int, tuning_seeds: int, smoke: bool
) -> config_dict.ConfigDict:
  """The configuration of one comparison."""
  name, _, arg = setting.config.partition(':')
  module = importlib.import_module(f'experiments.configs.{name}')
  config: config_dict.ConfigDict = module.get_config(
    f'{arg},smoke' if smoke else arg
  )
  config.update_from_flattened_dict(dict(setting.changes))
  config.compare = _METHODS
  config.subject = _SUBJECT
  config.num_seeds = seeds
  config.num_tuning_seeds = tuning_seeds
  return config


def _measures(
  name: str, setting: Setting, results: report.Results
) -> dict[str, dict[str, report.Values]]:
  """Measure -> method -> [seeds], in 0..1."""
  if name != 'testbed':
    return report.summary(results)
  modalities = testbed_settings.CONFIGS[setting.config.partition(':')[2]]
  strong, weak = modalities  # the weak or slow one is the second
  best = {
    'fused': generation.bayes_accuracy(modalities, list(modalities)),
    strong: generation.bayes_accuracy(modalities, [strong]),
    weak: generation.bayes_accuracy(modalities, [weak]),
  }

  def gap(output: str) -> dict[str, report.Values]:
    return {
      method: scores[f'accuracy/{output}'] - best[output]
      for method, scores in results.scores.items()
    }

  return {
    'fused, minus the best': gap('fused'),
    'strong or fast alone, minus the best': gap(strong),
    'weak or slow alone, minus the best': gap(weak),
  }


def main(argv: list[str]) -> None:
  """Runs the studies that are named, and prints where their reports are."""
  unknown = sorted(set(argv[1:]) - set(STUDIES))
  if unknown or not argv[1:]:
    sys.exit(f'Name studies of {", ".join(STUDIES)}; given {unknown}.')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells a lot
  directory = pathlib.Path(_STUDY_DIRECTORY.value).absolute()
  # The settings of a study share most programs.
  jax.config.update('jax_compilation_cache_dir', str(directory / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  for name in argv[1:]:
    results = run(
      STUDIES[name],
      directory / name,
      _SEEDS.value,
      _TUNING_SEEDS.value,
      _SMOKE.value,
    )
    path = write(
      name, STUDIES[name], results, pathlib.Path(_REPORTS.value) / name
    )
    print(f'The report is {path}.')


if __name__ == '__main__':
  app.run(main)
