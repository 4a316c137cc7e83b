"""What all configurations share: keys, words, recipes, values."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util
from ml_collections import config_dict

import mimo_jax
from experiments.evaluate import metrics
from experiments.methods import recipes

# The minimum of each count.
_LEAST = {
  'steps': 1,
  'log_every_steps': 1,
  'checkpoint_every_steps': 1,
  'num_seeds': 1,
  'max_skipped_steps': 0,
  'tuning.num_seeds': 0,
  'tuning.num_candidates': 1,
  'tuning.num_more': 1,
  'tuning.rounds': 0,
}


def words(arg: str, **choices: Sequence[str]) -> dict[str, str | None]:
  """Reads a config file's argument: words separated by commas, in any order.

  Raises:
    ValueError: if a word is unknown, or two belong to one topic.

  Examples:
    >>> words('two,smoke', views=('two', 'six'), smoke=('smoke',))
    {'views': 'two', 'smoke': 'smoke'}
  """
  found: dict[str, str | None] = dict.fromkeys(choices)
  for word in filter(None, arg.split(',')):
    topics = [topic for topic, known in choices.items() if word in known]
    if not topics:
      known = {topic: list(known) for topic, known in choices.items()}
      raise ValueError(
        f'The config argument {arg!r} has the unknown word {word!r}; expected'
        f' words of {known}, separated by commas.'
      )
    if found[topics[0]] is not None:
      raise ValueError(
        f'The config argument {arg!r} names two {topics[0]}:'
        f' {found[topics[0]]!r} and {word!r}.'
      )
    found[topics[0]] = word
  return found


def begin(
  arg: str, **choices: Sequence[str]
) -> tuple[config_dict.ConfigDict, dict[str, str | None]]:
  """Begins a configuration with the keys that all have, and their defaults.

  Args:
    arg: the argument of the config file.
    **choices: each topic of the file's own -> the words for it.

  Returns:
    The configuration, which lacks what each data set chooses for itself: names
    and sizes, encoders, optimizer and steps. And topic -> the word given, with
    the topics `method`, `weighting` and `smoke` besides the file's own.
  """
  config = config_dict.ConfigDict()
  config.seed = 0

  # Data
  config.data = {
    'classes': (),  # their names; empty: their numbers
    'train_fraction': 1.0,  # of the training rows
    'views': {},  # of stored elements; empty: elements stay as they are
    'standardize': False,
    'noise': 0.0,  # training noise, in standard deviations of each feature
    # The share of training rows that lack each modality, or a mapping
    # modality -> share. They are the same rows in every epoch, and no row lacks
    # all. Or modality -> 'stored': the data set says which rows lack it.
    'missing_rate': config_dict.FieldReference(0.0, field_type=object),
    # Whether each seed has its own training, validation and test rows: new
    # draws if the data set is synthetic, else another division of all rows.
    'redraw': False,
    'in_memory': False,
    'num_workers': 0,
    'num_threads': 0,
  }

  # Model
  config.model = {
    'fusion': {'name': 'ConcatFusion'},
    'detach_heads': False,
    'absent': 'zeros',  # features of missing modalities; or 'token': learned
    'checkpoint_encoders': False,
  }

  # Initial parameters, which of them learn, and how fast: by modules and
  # patterns of parameters. See core/weights.py and core/trainable.py.
  config.warm_start = ()  # such as 'encoders_visual=resnet18.pth'
  config.frozen = ()  # such as 'encoders_visual', 'encoders_audio/conv1'
  config.learning_rates = ()  # such as 'encoders_*=0.1', a factor

  # Objectives
  config.loss = 'cross_entropy_losses'
  config.target = 'label'
  # In a regression the model learns (target - mean) / std, and its outputs are
  # read in the target's unit.
  config.data.target_mean = 0.0
  config.data.target_std = 1.0

  # Method
  config.method = {'name': 'weighted'}  # which leaves all to config.weighting
  config.weighting = {'name': 'mimo', 'penalty': 1.0, 'temperature': 1.0}

  # Optimiser
  config.gradient_transforms = ()
  # This times params is added to the gradients after these transforms.
  config.weight_decay = 0.0
  # How many parts make an update, and what is balanced: 'each' part, or their
  # 'accumulated' losses. See experiments/core/accumulation.py.
  config.accumulation = {'batches': 1, 'balance': 'each'}
  # In a row, for non-finite gradients. After more, `train` ends at the next
  # logged step; `compare` and `sweep` report how many steps were skipped.
  config.max_skipped_steps = 5
  config.parallel = 'single'  # or 'pmap', 'jit', 'fsdp': core.placement
  # Whether a step's old state donates its memory to the new one.
  config.donate_state = True

  # Schedule
  config.log_every_steps = 10
  # Where `train` shows its numbers; also 'wandb', 'mlflow': core/writers.py.
  config.writers = ('tensorboard',)
  # Whether to log what gradients look like: 'none'; 'free', for rules that see
  # them anyway; or 'always': other rules then take a backward pass per
  # objective.
  config.diagnostics = 'none'

  # Evaluation
  config.evaluation = {
    'batch_size': 64,
    'metrics': ('accuracy', 'macro_f1'),  # the first is the primary one
    'noise_levels': (0.5, 1.0, 1.5, 2.0),  # in units of `noise_scale`
    'missing': False,  # whether evaluated rows lack modalities, too
  }

  # Comparison and sweep
  config.num_seeds = 5
  config.recipes = recipes.recipes()
  # The first is the reference for time.
  config.compare = (*recipes.REFERENCES, 'mgda', 'mimo_1', 'mimo_3')
  config.subject = ''  # the recipe that the report tests against each other one
  # The candidates of each recipe, among which validation chooses; see
  # experiments.core.tuning. `finish` adds the learning rate to the space.
  config.tuning = {
    'num_seeds': 0,  # runs of each candidate; 0: no tuning
    'num_candidates': 6,
    # How many more in each round, in which the space grows. If as many as
    # `num_candidates`, they use the same compiled program.
    'num_more': 6,
    'rounds': 1,  # at most
    'seed': 0,  # of the draws
    'space': {
      'weight_decay': {'low': 1e-4, 'high': 1e-1, 'scale': 'log'},
    },
  }
  # What experiments.sweep tries; see experiments.core.variants.
  config.sweep = {'grid': {}, 'random': {}, 'num_samples': 16, 'seed': 0}
  of_method = [k for k, v in config.recipes.items() if 'method' in v]
  own = filter(recipes.is_rule, arg.split(','))
  rules = dict.fromkeys((*config.recipes, *mimo_jax.weightings.__all__, *own))
  others = [name for name in rules if name not in of_method]
  given = words(
    arg, **choices, method=of_method, weighting=others, smoke=('smoke',)
  )
  return config, given


def finish(
  config: config_dict.ConfigDict,
  given: dict[str, str | None],
  smoke: Mapping[str, Any] = {},
) -> config_dict.ConfigDict:
  """Changes a configuration as the given words say, and returns it.

  Args:
    config: made by `begin`, with all that a data set chooses for itself.
    given: topic -> word, as `begin` returns them.
    smoke: what the word 'smoke' changes besides steps, seeds and workers.
  """
  rates = config.optimizer.to_dict()['learning_rate']
  rates = rates if isinstance(rates, Mapping) else {None: rates}
  for name in ('peak_value', 'init_value', None):  # of a warm-up; or at first
    rate = rates.get(name)
    if isinstance(rate, float) and rate > 0:
      draw = {'low': rate / 10, 'high': rate * 10, 'scale': 'log'}
      space = {name: draw} if name else draw
      config.tuning.space.optimizer = {'learning_rate': space}
      break
  if given['smoke'] is not None:
    config.lock()  # so that only existing keys can be changed
    config.steps, config.num_seeds = 20, 2
    config.log_every_steps = config.checkpoint_every_steps = 10
    config.data.num_workers = config.data.num_threads = 0
    config.update(smoke)
    config.unlock()
  named = [given[slot] for slot in ('method', 'weighting')]
  recipe = recipes.SEPARATOR.join(filter(None, named))
  return with_recipe(config, recipe) if recipe else config


def with_recipe(
  config: config_dict.ConfigDict, recipe: str
) -> config_dict.ConfigDict:
  """The configuration of one of `config.recipes`, or of two that compose.

  Several names are joined as in 'mmcosine+mimo'; see `recipes.changes_of`. The
  `method` and `weighting` of a recipe replace those of the configuration whole,
  since each has its own arguments. If the recipe has only one of the two, the
  other becomes the plain one, 'weighted' or 'joint', whatever the configuration
  has. Other changes are merged. The recipe's `space` is ignored.

  Raises:
    ValueError: if the recipe is unknown, or two name the same slot.
    KeyError: if it changes what the configuration does not have.
  """
  changed = config_dict.ConfigDict(config.to_dict())
  changes = recipes.changes_of(config.recipes.to_dict(), recipe)
  changes.pop('space', None)
  if recipes.PLAIN.keys() & changes.keys():
    changes = recipes.PLAIN | changes
  with changed.unlocked():
    for whole in recipes.PLAIN:
      if whole in changes:
        changed[whole] = changes.pop(whole)
  changed.lock()
  changed.update(changes)
  return changed


def with_values(
  config: config_dict.ConfigDict, values: Mapping[str, Any]
) -> config_dict.ConfigDict:
  """The configuration with some values changed, and without its sweep.

  Keys are dotted. The last part may be a key that is not set, such as an
  argument with a default. Values may be traced.

  Examples:
    >>> config = config_dict.ConfigDict({'optimizer': {'learning_rate': 0.1}})
    >>> with_values(config, {'optimizer.learning_rate': 0.3}).to_dict()
    {'optimizer': {'learning_rate': 0.3}}
  """
  settings = config.to_dict()
  if 'sweep' in settings:
    settings['sweep'] |= {'grid': {}, 'random': {}}
  for key, value in values.items():
    *above, last = key.split('.')
    place = settings
    for name in above:
      place = place[name]
    place[last] = value
  return config_dict.ConfigDict(settings).lock()


def flatten(config: config_dict.ConfigDict) -> dict[str, Any]:
  """All keys, with dots, and their values; mappings without keys left out."""
  flat: dict[str, Any] = traverse_util.flatten_dict(config.to_dict(), sep='.')
  return flat


def check(config: config_dict.ConfigDict) -> None:
  """Refuses what training would find out late.

  Raises:
    ValueError: if a count is too low, or a metric is unknown.
  """
  given = flatten(config)
  for key, least in _LEAST.items():
    if given.get(key, least) < least:
      raise ValueError(
        f'config.{key} is {given[key]}; expected at least {least}. Give'
        f' --config.{key}=NUMBER.'
      )
  for name in config.evaluation.metrics:
    metrics.get(name)


def dump(config: config_dict.ConfigDict) -> str:
  """A configuration as JSON; equal configurations give equal texts."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'
