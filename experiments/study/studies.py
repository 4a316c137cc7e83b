"""The studies: comparisons on settings that differ in one thing."""

import importlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings as testbed_settings
from experiments import configs
from experiments.methods import recipes
from experiments.report import measures
from experiments.report.results import Results
from experiments.study.reporting import Setting
from experiments.study.reporting import Study

# The time of a step, and of what is done between steps, relative to joint
# training: the middle value of HTAD, AV-MNIST and the testbed on two CPU cores.
# '' is for all other recipes.
COSTS: Mapping[str, float] = {
  'joint': 1.0,
  'sum': 1.0,
  'mimo': 1.1,
  'mimo_shrinking': 1.0,
  'unimodal': 1.0,
  'ensemble': 1.0,
  'dgl': 1.0,
  'cml': 1.3,
  'mgda': 1.5,
  'mla': 1.6,
  'midas': 1.6,
  'mmpareto': 1.7,
  'lfm': 1.7,
  'pmr': 1.7,
  'pretrained_frozen': 1.7,
  'reconboost': 2.0,
  'relearning': 2.0,
  'ogm_ge': 2.3,
  'pretrained_finetuned': 2.3,
  'g2d': 2.5,
  'umt': 3.5,
  'smp': 3.5,
  'g_blending': 4.0,
  'mcr': 5.0,
  'aug': 13.0,
  '': 1.2,
}

_REDRAWN = (('data.redraw', True),)


def _decay(default: float) -> tuple[tuple[str, Any], ...]:
  """Tuned weight decay, in place of the one among the gradient transforms."""
  return (('gradient_transforms', ()), ('weight_decay', default))


def _gaps(setting: Setting, results: Results) -> dict[str, measures.Column]:
  """The distance of the testbed's recipes from the best possible accuracy."""
  modalities = testbed_settings.CONFIGS[setting.config.partition(':')[2]]
  strong, weak = modalities  # the weak or slow one is the second
  outputs = {
    'fused': (results.column('accuracy/fused'), list(modalities)),
    'strong or fast alone': (results.column(f'accuracy/{strong}'), [strong]),
    'weak or slow alone': (results.column(f'accuracy/{weak}'), [weak]),
  }
  if results.tuning:
    outputs = {
      'chosen': (results.chosen('last'), list(modalities)),
      'stopped early': (results.chosen('stopped'), list(modalities)),
      **outputs,
    }
  columns = {}
  for name, (column, present) in outputs.items():
    best = generation.bayes_accuracy(modalities, present)
    values = {recipe: one - best for recipe, one in column.values.items()}
    words = f'{column.measure.words} minus the best'
    measure = column.measure._replace(words=words)
    columns[name] = measures.Column(measure, values)
  return columns


STUDIES: Mapping[str, Study] = {
  'testbed': Study(
    title='The testbed: modalities of known Bayes accuracy',
    axis=None,
    settings=(
      *(
        Setting(
          family,
          factor,
          f'synthetic:{"balanced" if factor == 1 else f"{family}_{factor}"}',
          _REDRAWN,
        )
        for family in ('imbalance', 'slowness')
        for factor in (1, 2, 4, 8)
      ),
      Setting('interaction', None, 'synthetic:interaction', _REDRAWN),
    ),
    about='data_pipelines/synthetic, late fusion with an MLP (64) per modality,'
    ' 600 steps of 64 rows. *imbalance*: one modality has that many times the'
    ' information of the other. *slowness*: both have the same information, but'
    ' the signal of one is that many times smaller than its nuisance, so that'
    ' gradient descent finds it later. Imbalance 1 and slowness 1 are the same'
    ' setting. *interaction*: the class is the sum, modulo 10, of what two'
    ' modalities show; alone they tell nothing, and the fusion has a hidden'
    ' layer. Each seed draws its own rows. The best is the Bayes accuracy.',
    columns=_gaps,
  ),
  'views': Study(
    title='Handwritten digits: two, three and six views',
    axis='training rows',
    settings=tuple(
      Setting(
        f'{views} views',
        rows,
        f'handwritten:{views}',
        (('data.train_fraction', rows / 1000), *_REDRAWN),
      )
      for views in ('two', 'three', 'six')
      for rows in (100, 300, 1000)
    ),
    about='Late fusion with an MLP (128, 64) per view, 600 steps of 64 rows.'
    ' Each seed splits the rows anew.',
  ),
  'real': Study(
    title='Real data: sound and motion, sound and pictures, pictures and words',
    axis=None,
    settings=(
      Setting('HTAD', None, 'htad', _REDRAWN, candidates=6, tuning_seeds=4),
      Setting(
        'AV-MNIST',
        None,
        'av_mnist:small,rebuilt',
        (*_decay(1e-2), ('checkpoint_every_steps', 100)),
      ),
      Setting(
        'icons', None, 'icons:small', (*_decay(1e-3), *_REDRAWN), seeds=5
      ),
    ),
    about='Late fusion, SGD with momentum. HTAD: an MLP (128, 64) per modality,'
    ' 600 steps. AV-MNIST, rebuilt and pooled: the same, 800 steps. Icons,'
    ' pooled: two convolutions for pictures and an MLP (128, 72) for words, 600'
    ' steps. Each seed splits HTAD and icons anew, without dividing a group;'
    ' the splits of AV-MNIST are fixed, because many rows share recordings.',
  ),
}


def named(word: str) -> Study:
  """The study of that name, or of one setting, a file of experiments/configs.

  Raises:
    ValueError: if there is neither.

  Examples:
    >>> named('views').title
    'Handwritten digits: two, three and six views'
    >>> [one.config for one in named('handwritten:two').settings]
    ['handwritten:two']
  """
  if word in STUDIES:
    return STUDIES[word]
  name = word.partition(':')[0]
  known = sorted(
    path.stem for path in pathlib.Path(configs.__path__[0]).glob('[a-z]*.py')
  )
  if name not in known:
    raise ValueError(
      f'There is no study {word!r}: expected one of {sorted(STUDIES)}, or a'
      ' file of experiments/configs with its words, such as arrays:FILE.npz;'
      f' there are {known}.'
    )
  return Study(
    title=word,
    axis=None,
    settings=(Setting(word, None, word),),
    about=f'The configuration `experiments/configs/{name}.py`.',
  )


def config_of(
  setting: Setting,
  smoke: bool = False,
  compared: Sequence[str] | None = None,
  **numbers: Any,
) -> config_dict.ConfigDict:
  """The configuration of one comparison.

  Args:
    setting: what to compare on.
    smoke: whether to take the configuration's `smoke`.
    compared: recipes, the first of which is the reference; by default all.
    **numbers: `seeds`, `candidates` and `tuning_seeds` in place of the
      setting's, unless they are None; `tuning_seeds=0` tunes nothing.
  """
  setting = setting._replace(
    **{name: number for name, number in numbers.items() if number is not None}
  )
  name, _, arg = setting.config.partition(':')
  module = importlib.import_module(f'experiments.configs.{name}')
  config: config_dict.ConfigDict = module.get_config(
    ','.join(filter(None, (arg, 'smoke' if smoke else '')))
  )
  config.update_from_flattened_dict(dict(setting.changes))
  config.num_seeds = setting.seeds
  config.tuning.num_seeds = setting.tuning_seeds
  config.tuning.num_candidates = setting.candidates
  config.tuning.num_more = setting.candidates
  config.compare = tuple(compared or recipes.tuned())
  config.subject = 'mimo' if 'mimo' in config.compare else config.compare[0]
  with config.unlocked():
    # Half of the features' width, as in its paper, however small that is.
    config.recipes.aug.method.width = None
  return config
