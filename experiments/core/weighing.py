"""Makes the weighting of the losses, and logs what gradients look like.

`config.weighting` names a rule of `mimo_jax.weightings`, with its arguments, or
'joint'. An argument may be a schedule of optax, `{'name': 'linear_schedule',
...}`, whose `transition_steps`, or any argument that ends in `_steps`, is the
length of the training if it is None. Every rule also takes `total`, to which
its weights are then scaled to sum: `mimo_jax.normalized`.

`config.diagnostics` is 'none'; 'free', for rules that see the gradients anyway,
at almost no cost; or 'always', with which rules that see losses only (the sum,
MIMO) take K backward passes in place of one. Weights do not change.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from ml_collections import config_dict

import mimo_jax
from experiments.core import named
from mimo_jax import nn

_DIAGNOSTICS = ('none', 'free', 'always')


def make(
  config: config_dict.ConfigDict, model: nn.LateFusion
) -> tuple[mimo_jax.Weighting, nn.LateFusion]:
  """The rule, and the model that it is for.

  'joint' is joint training: the losses are summed, and gradients stop between
  the modalities' own outputs and the encoders. These outputs learn, so that the
  encoders of all models can be evaluated alike, and affect nothing else, except
  by what the optimizer computes of all gradients at once, such as clipping by
  the global norm.

  Raises:
    ValueError: if there is no such rule, it does not take the arguments, or
      its gradients cannot be diagnosed.
  """
  settings = config.weighting.to_dict()
  if settings['name'] == 'joint':
    if given := sorted(set(settings) - {'name'}):
      raise ValueError(
        f"config.weighting is 'joint', which takes no arguments, but was given"
        f' {given}. To set it on the command line, give the word `joint` after'
        ' the colon of --config.'
      )
    rule = _diagnosed(mimo_jax.weightings.sum(), config)
    return rule, model.clone(detach_heads=True)
  total = settings.pop('total', None)
  arguments = {key: _timed(value, config) for key, value in settings.items()}
  try:
    rule = named.make(mimo_jax.weightings, arguments, within=optax)
  except ValueError as error:
    raise ValueError(
      f'{str(error).removesuffix(".")}. To choose another rule on the command'
      ' line, give its name as a word after the colon of --config, which also'
      ' gives it its own arguments.'
    ) from error
  if not isinstance(rule, mimo_jax.Weighting):
    raise ValueError(
      f'{settings["name"]!r} has made {rule!r}; expected a function that'
      ' returns a mimo_jax.Weighting, as mimo_jax.stateless makes one.'
    )
  if rule.extra_args:
    raise ValueError(
      f'The rule {settings["name"]!r} needs {list(rule.extra_args)} of other'
      ' batches, which training steps here do not have. Choose another rule, or'
      ' write a loop of your own: see "Rules that see more than one batch" in'
      ' mimo_jax/README.md.'
    )
  if total is not None:
    rule = mimo_jax.normalized(rule, total=total)
  return _diagnosed(rule, config), model


def _timed(argument: Any, config: config_dict.ConfigDict) -> Any:
  """The argument; in a schedule, a length of None becomes `config.steps`."""
  if not isinstance(argument, Mapping):
    return argument
  return {
    key: config.steps if value is None and key.endswith('_steps') else value
    for key, value in argument.items()
  }


def is_diagnosed(config: config_dict.ConfigDict) -> bool:
  """Whether anything is logged of gradients.

  Raises:
    ValueError: if `config.diagnostics` is none of the choices.
  """
  choice = config.get('diagnostics', 'none')  # runs of older versions lack it
  if choice not in _DIAGNOSTICS:
    raise ValueError(
      f'config.diagnostics is {choice!r}; expected one of {_DIAGNOSTICS}.'
    )
  return bool(choice != 'none')


def _diagnosed(
  rule: mimo_jax.Weighting, config: config_dict.ConfigDict
) -> mimo_jax.Weighting:
  """The rule; if configured, its state holds what gradients look like."""
  if not is_diagnosed(config):
    return rule
  return mimo_jax.diagnosed(rule, always=config.diagnostics == 'always')


def diagnostics(
  opt_state: optax.OptState, objectives: Sequence[str]
) -> dict[str, Any]:
  """The diagnostics in a step's state, by objectives in the order of balancing.

  Returns:
    Empty if the rule saw no gradients. Else `conflicting`, the share of pairs
    with a negative cosine; `lengths` of the gradients, objective -> [];
    `direction_cosines`, of gradients with the update's direction, likewise; and
    `cosines`, 'one/other' -> [] for each pair.
  """
  seen: Any = optax.tree.get(opt_state, 'DiagnosedState')
  if seen is None or seen.cosines is None:
    return {}

  def by_name(values: Any) -> Mapping[str, Any]:
    return {name: values[i] for i, name in enumerate(objectives)}

  pairs = itertools.combinations(enumerate(objectives), 2)
  return {
    'conflicting': seen.conflicting,
    'lengths': by_name(seen.lengths),
    'direction_cosines': by_name(seen.direction_cosines),
    'cosines': {
      f'{one}/{other}': seen.cosines[i, k] for (i, one), (k, other) in pairs
    },
  }
