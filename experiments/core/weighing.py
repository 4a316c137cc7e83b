"""Makes the weighting of the losses: `config.weighting`.

It names a rule of `mimo_jax.weightings`, with its arguments, or 'joint'. An
argument may be a schedule of optax, `{'name': 'linear_schedule', ...}`, whose
`transition_steps`, or any argument that ends in `_steps`, is the length of the
training if it is None. Every rule also takes `total`, to which its weights are
then scaled to sum: `mimo_jax.normalized`.
"""

from collections.abc import Mapping
from typing import Any

import optax
from ml_collections import config_dict

import mimo_jax
from experiments.core import diagnostics
from experiments.core import named
from mimo_jax import nn


def make(
  config: config_dict.ConfigDict, model: nn.LateFusion
) -> tuple[mimo_jax.Weighting, nn.LateFusion]:
  """The rule, and the model that it is for.

  'joint' is joint training: the losses are summed, and gradients stop between
  the modalities' own outputs and the encoders. These outputs learn, so that the
  encoders of all models can be evaluated alike, and affect nothing else.

  Args:
    config: with `weighting`, `steps` and `diagnostics`.
    model: as `config.model` describes it.

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
    rule = diagnostics.diagnosed(mimo_jax.weightings.sum(), config)
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
  return diagnostics.diagnosed(rule, config), model


def _timed(argument: Any, config: config_dict.ConfigDict) -> Any:
  """The argument; in a schedule, a length of None becomes `config.steps`."""
  if not isinstance(argument, Mapping):
    return argument
  return {
    key: config.steps if value is None and key.endswith('_steps') else value
    for key, value in argument.items()
  }
