"""Logs what the gradients of a step look like: `config.diagnostics`.

It is 'none'; 'free', for rules that see the gradients anyway, at almost no
cost; or 'always', with which rules that see losses only (the sum, MIMO) take K
backward passes in place of one. Weights do not change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optax
from ml_collections import config_dict

import mimo_jax

CHOICES = ('none', 'free', 'always')


def is_on(config: config_dict.ConfigDict) -> bool:
  """Whether anything is logged of gradients.

  Raises:
    ValueError: if `config.diagnostics` is none of the choices.
  """
  choice = config.get('diagnostics', 'none')  # runs of older versions lack it
  if choice not in CHOICES:
    raise ValueError(
      f'config.diagnostics is {choice!r}; expected one of {CHOICES}.'
    )
  return bool(choice != 'none')


def diagnosed(
  rule: mimo_jax.Weighting, config: config_dict.ConfigDict
) -> mimo_jax.Weighting:
  """The rule; if configured, its state holds what gradients look like."""
  if not is_on(config):
    return rule
  return mimo_jax.diagnosed(rule, always=config.diagnostics == 'always')


def of_step(
  opt_state: optax.OptState, objectives: Sequence[str]
) -> dict[str, Any]:
  """The diagnostics in a step's state, by names of objectives.

  Args:
    opt_state: with the state of `mimo_jax.diagnosed`, or without.
    objectives: in the order in which they were balanced.

  Returns:
    Empty if the rule saw no gradients. Else `conflicting`, the share of pairs
    with a negative cosine; `lengths` of the gradients, objective -> [];
    `direction_cosines`, of gradients with the update's direction, likewise; and
    `cosines`, 'one/other' -> [] for each pair.
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
