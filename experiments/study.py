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
from collections.abc import Mapping

import jax
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_dict

from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings as testbed_settings
from experiments import compare
from experiments.methods import recipes
from experiments.reporting import measures
from experiments.reporting import results as results_lib
from experiments.reporting import studies
from experiments.reporting.results import Results
from experiments.reporting.studies import Setting
from experiments.reporting.studies import Study

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


def _gaps(setting: Setting, results: Results) -> dict[str, measures.Column]:
  """How far the testbed's recipes are from the best that is possible."""
  modalities = testbed_settings.CONFIGS[setting.config.partition(':')[2]]
  strong, weak = modalities  # the weak or slow one is the second
  outputs = {
    'fused': ('fused', list(modalities)),
    'strong or fast alone': (strong, [strong]),
    'weak or slow alone': (weak, [weak]),
  }
  columns = {}
  for name, (output, present) in outputs.items():
    best = generation.bayes_accuracy(modalities, present)
    scores = results.score(f'accuracy/{output}')
    columns[f'{name}, minus the best'] = measures.Column(
      measures.Measure.of('accuracy'),
      {recipe: values - best for recipe, values in scores.items()},
    )
  return columns


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
    columns=_gaps,
  ),
}


def run(
  study: Study,
  directory: pathlib.Path,
  seeds: int,
  tuning_seeds: int,
  smoke: bool = False,
) -> dict[Setting, Results]:
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
    results[setting] = results_lib.read(workdir)
  return results


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
    path = studies.write(
      STUDIES[name],
      results,
      pathlib.Path(_REPORTS.value) / name,
      f'python -m experiments.study {name}',
    )
    print(f'The report is {path}.')


if __name__ == '__main__':
  app.run(main)
