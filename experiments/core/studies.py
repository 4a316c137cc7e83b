"""The studies: comparisons on settings that differ in one thing."""

import importlib
from collections.abc import Mapping

from ml_collections import config_dict

from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings as testbed_settings
from experiments.methods import recipes
from experiments.reporting import measures
from experiments.reporting.results import Results
from experiments.reporting.studies import Setting
from experiments.reporting.studies import Study


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


def config_of(
  setting: Setting, seeds: int, tuning_seeds: int, smoke: bool
) -> config_dict.ConfigDict:
  """The configuration of one comparison."""
  name, _, arg = setting.config.partition(':')
  module = importlib.import_module(f'experiments.configs.{name}')
  config: config_dict.ConfigDict = module.get_config(
    f'{arg},smoke' if smoke else arg
  )
  config.update_from_flattened_dict(dict(setting.changes))
  config.compare = recipes.tuned()
  config.subject = 'mimo'
  config.num_seeds = seeds
  config.num_tuning_seeds = tuning_seeds
  return config
