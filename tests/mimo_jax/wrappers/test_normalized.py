"""Weights of a fixed sum, around rules of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests import jacobians
from tests.mimo_jax import three_objectives as three

ROWS = jacobians.generic(3, 5)
LOSSES = jnp.array([0.3, 0.9, 0.5])
RULES = {
  'losses': mimo_jax.mimo(3.0, 0.7),
  'gramian': weightings.nash_mtl(),
  'negative': weightings.constant([0.5, 2.0, -1.0]),
  'coordinates': weightings.graddrop(leak=0.2),
  'direction': weightings.moco(),
}


def observe(rows=ROWS):
  rows = jnp.asarray(rows, jnp.float32)
  losses = LOSSES[: len(rows)]
  return mimo_jax.Observation(losses, rows @ rows.T, {'w': rows})


def first_step(rule, rows=ROWS):
  state = rule.init(len(rows), {'w': jnp.zeros(rows.shape[1])})
  return jax.jit(rule.update)(observe(rows), state)


def each(weights):
  """One weight for each objective."""
  if isinstance(weights, mimo_jax.Direction):
    return np.asarray(weights.weights)
  if isinstance(weights, dict):
    return np.asarray(weights['w']).mean(1)
  return np.asarray(weights)


@pytest.mark.parametrize('kind', RULES)
def test_sizes_sum_to_the_total_and_ratios_stay(kind):
  rule = RULES[kind]
  expected, state = first_step(rule)
  scaled = mimo_jax.normalized(rule, total=2.5)
  assert scaled.needs == rule.needs
  weights, new_state = first_step(scaled)
  assert abs(np.abs(each(weights)).sum() - 2.5) < 1e-5
  factor = 2.5 / np.abs(each(expected)).sum()
  assert abs(factor - 1) > 0.1
  checks.assert_close(
    weights, jax.tree.map(lambda leaf: factor * leaf, expected)
  )
  checks.assert_close(new_state, state)


@pytest.mark.parametrize('size', [1e-30, 1e38])
def test_weights_of_any_size(size):
  weights = size * np.array([1.0, 2.0, -3.0])
  rule = mimo_jax.normalized(weightings.constant(weights))
  np.testing.assert_allclose(
    first_step(rule)[0], [1 / 6, 1 / 3, -1 / 2], rtol=1e-5
  )


def test_weights_of_zero_stay_zero_and_nan_stays_nan():
  for value in (0.0, np.nan):
    rule = mimo_jax.stateless(
      lambda observation, value=value: value * observation.losses,
      needs='losses',
    )
    weights, _ = first_step(mimo_jax.normalized(rule))
    np.testing.assert_array_equal(weights, np.full(3, value))


def test_balance_takes_it_and_the_step_is_that_of_the_total():
  losses, pullback = jax.vjp(three.named_losses_of, three.PARAMS)
  updates = {}
  for name, rule in {
    'sum': weightings.sum(),
    'mean': weightings.mean(),
    'normalized sum': mimo_jax.normalized(weightings.sum()),
  }.items():
    balance = mimo_jax.balance(rule, objectives=three.OBJECTIVES)
    updates[name], state = balance.update(
      pullback, balance.init(three.PARAMS), three.PARAMS, losses=losses
    )
  checks.assert_close(updates['normalized sum'], updates['mean'])
  assert optax.tree.get(state, 'weights').sum() == pytest.approx(1)
  assert abs(updates['normalized sum']['bias'] - updates['sum']['bias']) > 0.05


def test_what_is_no_rule_and_no_total_is_refused():
  refused = checks.assert_refused
  refused('expected a mimo_jax.Weighting', mimo_jax.normalized, mimo_jax.mimo)
  for total in (0, -1.0, np.inf):
    refused('total=', mimo_jax.normalized, mimo_jax.mimo(), total=total)


# Gradients of unit length.


def by_hand(rule, rows):
  """Weights that the rule gives unit rows, and their direction."""
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  units = rows / np.where(lengths == 0, 1, lengths)
  weights, state = first_step(rule, units)
  if isinstance(weights, mimo_jax.Direction):
    return weights.updates['w'], state
  full = weights['w'] if isinstance(weights, dict) else weights[:, None]
  return np.sum(full * units, axis=0), state


@pytest.mark.parametrize('kind', [*RULES, 'mgda'])
def test_the_direction_is_that_of_unit_rows(kind):
  rule = weightings.mgda() if kind == 'mgda' else RULES[kind]
  expected, state = by_hand(rule, ROWS)
  weights, new_state = first_step(mimo_jax.unit_gradients(rule))
  if isinstance(weights, mimo_jax.Direction):
    direction = weights.updates['w']
  else:
    full = weights['w'] if isinstance(weights, dict) else weights[:, None]
    direction = np.sum(full * ROWS, axis=0)
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


def test_units_and_a_total_compose_in_balance():
  losses, pullback = jax.vjp(three.named_losses_of, three.PARAMS)
  rule = mimo_jax.unit_gradients(weightings.sum())
  assert rule.needs == ('losses', 'gramian')
  balance = mimo_jax.balance(
    mimo_jax.normalized(rule), objectives=three.OBJECTIVES
  )
  _, state = balance.update(
    pullback, balance.init(three.PARAMS), three.PARAMS, losses=losses
  )
  inverse = [
    1 / optax.tree.norm(jax.grad(lambda p, i=i: three.losses_of(p)[i])(p0))
    for i, p0 in enumerate([three.PARAMS] * 3)
  ]
  np.testing.assert_allclose(
    state.weights, np.array(inverse) / np.sum(inverse), rtol=1e-4
  )


def test_rules_of_several_batches_are_refused():
  checks.assert_refused(
    'needs the cross_gramian', mimo_jax.unit_gradients, weightings.modo()
  )
