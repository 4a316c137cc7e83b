"""`unit_gradients`, for rules of every kind."""

import jax
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.wrappers.rules import direction_of
from tests.mimo_jax.wrappers.rules import each
from tests.mimo_jax.wrappers.rules import first_step
from tests.mimo_jax.wrappers.rules import ROWS
from tests.mimo_jax.wrappers.rules import RULES


def by_hand(rule, rows):
  """Returns the rule's weights for unit rows, and their direction."""
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  units = rows / np.where(lengths == 0, 1, lengths)
  weights, state = first_step(rule, units)
  return direction_of(weights, units), state


@pytest.mark.parametrize('kind', [*RULES, 'mgda'])
def test_the_direction_is_that_of_unit_rows(kind):
  rule = weightings.mgda() if kind == 'mgda' else RULES[kind]
  expected, state = by_hand(rule, ROWS)
  weights, new_state = first_step(mimo_jax.unit_gradients(rule))
  direction = direction_of(weights)
  np.testing.assert_allclose(direction, expected, rtol=2e-5, atol=1e-5)
  checks.assert_close(new_state, state, rtol=2e-5)
  assert np.abs(direction).max() > 0.01


@pytest.mark.parametrize('kind', ['losses', 'mgda', 'imtl_g'])
def test_positive_factors_of_rows_change_nothing(kind):
  rule = mimo_jax.unit_gradients(
    RULES[kind] if kind in RULES else getattr(weightings, kind)()
  )
  directions = [
    first_step(rule, rows)[0] @ rows
    for rows in (ROWS, ROWS * np.array([[1e-9], [30.0], [1e9]]))
  ]
  np.testing.assert_allclose(*directions, rtol=1e-4, atol=1e-6)


def test_a_zero_row_has_no_weight_and_changes_nothing():
  rows = np.concatenate([ROWS[:1], 0 * ROWS[:1], ROWS[1:2]])
  for rule in (weightings.mgda(), weightings.mean(), weightings.graddrop()):
    weights, _ = first_step(mimo_jax.unit_gradients(rule), rows)
    weights = each(weights)
    assert weights[1] == 0
    assert np.all(weights[[0, 2]] > 0)
  weights, _ = first_step(mimo_jax.unit_gradients(weightings.mgda()), rows)
  others, _ = first_step(
    mimo_jax.unit_gradients(weightings.mgda()), rows[[0, 2]]
  )
  np.testing.assert_allclose(each(weights)[[0, 2]], others, rtol=1e-5)


def test_unit_gradients_and_normalized_compose_in_balance():
  rule = mimo_jax.unit_gradients(weightings.sum())
  assert rule.needs == ('losses', 'gramian')
  balance = mimo_jax.balance(
    mimo_jax.normalized(rule), objectives=three.OBJECTIVES
  )
  _, state = checks.first_step(balance, three.named_losses_of, three.PARAMS)
  inverse = [
    1 / optax.tree.norm(jax.grad(lambda p, i=i: three.losses_of(p)[i])(p0))
    for i, p0 in enumerate([three.PARAMS] * 3)
  ]
  np.testing.assert_allclose(
    state.weights, np.array(inverse) / np.sum(inverse), rtol=1e-4
  )


def test_rules_of_several_batches_are_refused():
  with pytest.raises(ValueError, match='needs the cross_gramian'):
    mimo_jax.unit_gradients(weightings.modo())
