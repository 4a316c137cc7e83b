"""Logs what the gradients of a step look like: `config.diagnostics`.

It is 'none'; 'free', of rules that see the gradients anyway, where it costs
nothing to speak of; or 'always', where rules that see losses only (the sum,
MIMO) then cost K backward passes in place of one. Weights do not change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optax
from ml_collections import config_dict

import mimo_jax

CHOICES = ('none', 'free', 'always')


def is_on(config: config_dict.ConfigDict) -> bool:
  """Whether something is told of gradients.

  Raises:
    ValueError: if `config.diagnostics` is no choice that there is.
  """
  choice = config.get('diagnostics', 'none')  # runs of before have none
  if choice not in CHOICES:
    raise ValueError(
      f'config.diagnostics is {choice!r}; expected one of {CHOICES}.'
    )
  return bool(choice != 'none')


def diagnosed(
  rule: mimo_jax.Weighting, config: config_dict.ConfigDict
) -> mimo_jax.Weighting:
  """The rule, whose state tells what it saw if the configuration says so."""
  if not is_on(config):
    return rule
  return mimo_jax.diagnosed(rule, always=config.diagnostics == 'always')


def of_step(
  opt_state: optax.OptState, objectives: Sequence[str]
) -> dict[str, Any]:
  """What the last step's state tells, by names of objectives.

  Args:
    opt_state: with the state of `mimo_jax.diagnosed`, or without.
    objectives: in the order in which they were balanced.

  Returns:
    Nothing if nothing was seen. Else `conflicting`, the share of the pairs
    whose cosine is negative; `lengths` of the gradients and `direction_cosines`
    with the update's direction, objective -> []; `cosines`, 'one/other' -> []
    for each pair.
  """
  seen: Any = optax.tree.get(opt_state, 'DiagnosedState')
  if seen is None or seen.cosines is None:
    return {}

  def named(values: Any) -> Mapping[str, Any]:
    return {name: values[i] for i, name in enumerate(objectives)}

  return {
    'conflicting': seen.conflicting,
    'lengths': named(seen.lengths),
    'direction_cosines': named(seen.direction_cosines),
    'cosines': {
      f'{one}/{other}': seen.cosines[i, k]
      for i, one in enumerate(objectives)
      for k, other in enumerate(objectives)
      if i < k
    },
  }
