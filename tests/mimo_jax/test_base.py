"""What `stateless` and `stateful` guarantee for users' own rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import base
from mimo_jax import weightings

LOSSES = jnp.array([0.7, 1.9], jnp.float32)
GRADIENTS = [
  {'w': jnp.array([1.0, -2.0, 0.5])},
  {'w': jnp.array([3.0, 0.25, -1.0])},
]


def test_weights_have_the_type_of_the_losses_and_state_keeps_its_types():
  def init(num_objectives):
    return {
      'mean': jnp.zeros(num_objectives, jnp.bfloat16),
      'key': jax.random.key(3),
      'step': jnp.zeros((), jnp.int32),
    }

  def update(observation, state):
    return np.array([2, 3]), {
      'mean': observation.losses,
      'key': jax.random.split(state['key'])[0],
      'step': state['step'] + 1.0,
    }

  rule = mimo_jax.stateful(init, update, needs='losses')
  state = rule.init(2, {'w': jnp.zeros(3)})
  weights, after = rule.update(mimo_jax.Observation(LOSSES), state)
  assert weights.dtype == jnp.float32
  np.testing.assert_array_equal(weights, [2.0, 3.0])
  for name, leaf in state.items():
    assert after[name].dtype == leaf.dtype, name
  np.testing.assert_allclose(after['mean'].astype(float), LOSSES, rtol=4e-3)
  assert after['step'] == 1
  moved = jax.random.key_data(after['key']) != jax.random.key_data(state['key'])
  assert np.any(moved)


def test_init_gets_params_if_it_takes_them():
  params = {'w': jnp.zeros((4, 3))}

  def update(observation, state):
    return observation.losses, state

  def state_of(init):
    rule = mimo_jax.stateful(init, update, needs='losses')
    return rule.init(5, params), rule.init(5)

  assert state_of(lambda num_objectives: num_objectives) == (5, 5)
  given, missing = state_of(lambda _, params=None: params)
  np.testing.assert_array_equal(given['w'], params['w'])
  assert missing is None
  given, missing = state_of(lambda size, params: (size, params))
  assert given[0] == 5
  np.testing.assert_array_equal(given[1]['w'], params['w'])
  assert missing == (5, None)


def test_mean_weights_of_no_coordinates_are_zero():
  of_nothing = base.for_each_objective({'w': np.ones([3, 0])})
  np.testing.assert_array_equal(of_nothing, np.zeros(3))


def test_a_rule_may_need_several_fields():
  seen = []

  def weigh(observation):
    seen.append(observation)
    return jnp.diagonal(observation.gramian) * observation.losses_after

  rule = mimo_jax.stateless(weigh, needs=('gramian', 'losses_after'))
  assert rule.extra_args == ('losses_after',)
  optimizer = mimo_jax.balance(rule)
  updates, _ = optimizer.update(
    GRADIENTS, optimizer.init(None), losses=LOSSES, losses_after=2 * LOSSES
  )
  assert seen[0].jacobian is None and seen[0].cross_gramian is None
  squares = [np.sum(np.square(row['w'])) for row in GRADIENTS]
  expected = sum(
    square * 2 * loss * row['w']
    for square, loss, row in zip(squares, LOSSES, GRADIENTS, strict=True)
  )
  np.testing.assert_allclose(updates['w'], expected, rtol=1e-6)
  for field in ('gramian', 'losses_after'):
    given = {'gramian': jnp.eye(2), 'losses_after': LOSSES} | {field: None}
    with pytest.raises(ValueError, match=f'{field}=None'):
      rule.update(mimo_jax.Observation(LOSSES, **given), rule.init(2))


def test_a_state_keeps_its_form():
  """Else `lax.scan`, or restoring, would fail far from the rule."""
  observation = mimo_jax.Observation(LOSSES)
  for returned, message in (
    (lambda losses, _: losses, 'returned a .*expected a pair'),
    (lambda losses, state: (losses, (state, state)), 'expected the form'),
    (
      lambda losses, state: (losses, state[:1]),
      r'shape \(2,\) into one of shape \(1,\)',
    ),
  ):
    rule = mimo_jax.stateful(
      jnp.zeros,
      lambda seen, state, returned=returned: returned(seen.losses, state),
      needs='losses',
    )
    with pytest.raises(ValueError, match=message):
      rule.update(observation, rule.init(2))


def test_a_state_of_another_number_of_objectives_is_refused():
  for rule in (weightings.dwa(), weightings.gradvac(), weightings.uw()):
    observation = mimo_jax.Observation(LOSSES, jnp.eye(2))
    with pytest.raises(
      ValueError, match=r'init\(2\) returns. Use a state with the'
    ):
      jax.eval_shape(rule.update, observation, rule.init(3))
    jax.eval_shape(rule.update, observation, rule.init(2))
  # Rules without a state accept any.
  jax.eval_shape(weightings.mgda().update, observation, None)


def test_a_users_gramian_replaces_inner_products():
  calls = []

  def gramian(gradients, objectives):
    calls.append([gradients[i]['w'].tolist() for i in objectives])
    return 10.0 * mimo_jax.gramian(gradients, objectives)

  def weigh(observation):
    return observation.gramian[0]

  rule = mimo_jax.stateless(weigh, needs='gramian')
  optimizer = mimo_jax.balance(rule, objectives=('b', 'a'), gramian=gramian)
  updates, state = optimizer.update(
    dict(zip('ab', GRADIENTS, strict=True)),
    optimizer.init(None),
    losses=dict(zip('ab', LOSSES, strict=True)),
  )
  # The primary objective is b.
  one, other = np.asarray(GRADIENTS[1]['w']), np.asarray(GRADIENTS[0]['w'])
  assert calls == [[one.tolist(), other.tolist()]]
  weights = [10 * one @ one, 10 * one @ other]
  np.testing.assert_allclose(state.weights, weights, rtol=1e-6)
  expected = weights[0] * one + weights[1] * other
  np.testing.assert_allclose(updates['w'], expected, rtol=1e-6)
