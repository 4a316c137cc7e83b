"""Separate weights for groups of parameters."""

import jax
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.parts import by_hand
from tests.mimo_jax.parts import each_form
from tests.mimo_jax.parts import flattened
from tests.mimo_jax.parts import forms
from tests.mimo_jax.parts import gradients
from tests.mimo_jax.parts import group_of
from tests.mimo_jax.parts import GROUPS
from tests.mimo_jax.parts import leaves
from tests.mimo_jax.parts import OBJECTIVES
from tests.mimo_jax.parts import PARAMS
from tests.mimo_jax.parts import updated
from tests.mimo_jax.parts import weights_on


@each_form
@pytest.mark.parametrize('rule', ['inverse lengths', 'mgda', 'sign agreement'])
def test_each_group_has_its_own_weights(rule, form):
  updates, state = updated(three.RULES[rule], form, groups=group_of)
  for name, places in GROUPS.items():
    expected = by_hand(three.RULES[rule], places)
    checks.assert_close(leaves(updates, places), expected, 1e-4, 1e-5, name)
  assert list(state.weights) == sorted(GROUPS)
  if rule == 'sign agreement':  # each number of the gradients has weights
    return
  for name, places in GROUPS.items():
    expected = weights_on(three.RULES[rule], places)
    checks.assert_close(state.weights[name], expected, 1e-4, 1e-5)
  together = weights_on(three.RULES[rule], (0, 1, 2))
  assert np.abs(together - state.weights['audio']).max() > 1e-2


def test_a_rule_for_losses_is_asked_once_and_weights_all_groups_alike():
  updates, state = updated(three.RULES['scheduled mimo'], groups=group_of)
  expected, without = updated(three.RULES['scheduled mimo'])
  checks.assert_close(updates, expected)
  assert list(state.weights) == sorted(GROUPS)
  for weights in state.weights.values():
    checks.assert_close(weights, without.weights)
  checks.assert_close(state.weighting, without.weighting)


def test_names_of_groups_are_their_keys_as_strings():
  keys = {'bias': None, 'audio': 3, 'visual': ('a', 'b')}

  def names(groups):
    return list(
      mimo_jax.balance(
        three.RULES['mgda'], objectives=OBJECTIVES, groups=groups
      )
      .init(PARAMS)
      .weights
    )

  assert names(lambda path: keys[path[min(1, len(path) - 1)]]) == [
    '3',
    'None',
    'a/b',
  ]
  assert names(lambda path: path) == [
    'bias',
    'encoders/audio',
    'encoders/visual/0',
  ]


def test_a_group_that_is_not_finite_stops_all_groups():
  rule = weightings.cr_mogm()
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, groups=group_of)

  @jax.jit
  def step(state, added):
    losses, updates = forms()
    updates['mapping']['audio']['bias'] += added
    return balance.update(updates['mapping'], state, PARAMS, losses=losses)

  _, state = step(balance.init(PARAMS), 0.0)
  new, after = step(state, np.nan)
  checks.assert_equal(after, state)
  for leaf in jax.tree.leaves(new):
    assert np.all(np.isnan(leaf))


def test_weigh_on_may_select_parts_of_groups():
  def half(path):
    return path != ('encoders', 'audio')

  updates, state = updated(
    three.RULES['mgda'], groups=lambda path: path[0], weigh_on=half
  )
  for name, places in {'bias': (0,), 'encoders': (2,)}.items():
    weights = weights_on(three.RULES['mgda'], places)
    checks.assert_close(state.weights[name], weights, 1e-4, 1e-5)
  expected = np.asarray(weights) @ flattened(gradients(), [1])
  checks.assert_close(leaves(updates, [1])[0], expected, 1e-4, 1e-5)
