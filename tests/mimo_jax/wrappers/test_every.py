"""`every`: weights that are updated only every few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import parts
from tests.mimo_jax import shardable
from tests.mimo_jax import three_objectives as three

PARAMS, OBJECTIVES = three.PARAMS, three.OBJECTIVES
SCALES = (1.0, 1.3, 0.8, 1.1, 0.6)


def balance(rule='mgda', **options):
  return mimo_jax.balance(three.RULES[rule], objectives=OBJECTIVES, **options)


def at(scale):
  """Returns losses and pullback at other params."""
  params = jax.tree.map(lambda leaf: scale * leaf, PARAMS)
  return params, *jax.vjp(three.named_losses_of, params)


def run(balancer):
  """Returns states and updates of steps at given params; compiled once."""
  traces = []

  @jax.jit
  def step(state, scale):
    traces.append(1)
    params, losses, pullback = at(scale)
    return balancer.update(pullback, state, params, losses=losses)

  state, found = balancer.init(PARAMS), []
  for scale in SCALES:
    updates, state = step(state, scale)
    found.append((updates, state))
  assert len(traces) == 1
  return found


@pytest.mark.parametrize(
  'options', [{}, {'groups': lambda path: path[0]}], ids=['all', 'groups']
)
def test_weights_are_those_of_the_last_step_that_asked_the_rule(options):
  rule = 'mgda'
  plain = balance(rule, **options)
  update = jax.jit(plain.update)
  steps = run(mimo_jax.every(plain, 3))
  for number, (updates, state) in enumerate(steps):
    asked = number - number % 3
    params, losses, pullback = at(SCALES[asked])
    _, then = update(pullback, plain.init(params), params, losses=losses)
    weights = optax.tree.get(state, 'weights')
    checks.assert_close(weights, then.weights, 1e-4)
    params, losses, pullback = at(SCALES[number])
    expected, same = update(
      pullback, then, params, losses=losses, weights=then.weights
    )
    checks.assert_close(updates, expected, 1e-4, 1e-4)
    checks.assert_equal(same, then)
  first, last = steps[0][1], steps[3][1]
  difference = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(),
    first.balance.weights,
    last.balance.weights,
  )
  assert max(jax.tree.leaves(difference)) > 1e-2


def test_given_weights_are_combined_by_hand():
  params, losses, pullback = at(1.0)
  given = jnp.array([0.5, -2.0, 3.0])
  gradients = [
    jax.grad(lambda p, i=i: three.losses_of(p)[i])(params) for i in range(3)
  ]
  expected = jax.tree.map(
    lambda *rows: sum(map(jnp.multiply, given, rows)), *gradients
  )
  for name in ('mgda', 'mimo'):
    plain = balance(name)
    for updates in (pullback, three.named(gradients)):
      new, _ = plain.update(
        updates, plain.init(params), params, losses=losses, weights=given
      )
      checks.assert_close(new, expected, 1e-4, 1e-5)


def test_the_state_of_the_rule_does_not_change_in_between():
  steps = run(mimo_jax.every(balance('smoothed'), 2))
  seen = [int(optax.tree.get(state, 'seen')) for _, state in steps]
  assert seen == [1, 1, 2, 2, 3]


def test_asking_in_every_step_is_the_rule_itself():
  for (updates, state), (expected, plain) in zip(
    run(mimo_jax.every(balance(), 1)), run(balance()), strict=True
  ):
    checks.assert_close(updates, expected, 1e-5, 1e-5)
    checks.assert_close(state.balance, plain, 1e-5)


def test_the_rule_is_asked_again_until_a_step_is_finite():
  balancer = mimo_jax.every(balance(), 3)
  update = jax.jit(balancer.update)
  state = balancer.init(PARAMS)
  params, losses, pullback = at(1.0)
  bad = losses | {'audio': jnp.float32(np.nan)}
  updates, state = update(pullback, state, params, losses=bad)
  assert np.isnan(updates['bias'])
  assert not np.any(optax.tree.get(state, 'weights'))
  updates, state = update(pullback, state, params, losses=losses)
  assert optax.tree.get(state, 'weights').sum() == pytest.approx(1, rel=1e-5)
  weights = optax.tree.get(state, 'weights')
  updates, state = update(pullback, state, params, losses=bad)
  assert np.isnan(updates['bias'])
  checks.assert_equal(optax.tree.get(state, 'weights'), weights)


def test_an_absent_objective_is_ignored_in_steps_in_between():
  balancer = mimo_jax.every(balance('inverse lengths'), 2)
  params, losses, pullback = at(1.0)
  _, asked = balancer.update(
    pullback, balancer.init(params), params, losses=losses
  )
  weights = optax.tree.get(asked, 'weights')
  assert min(weights) > 0
  rows = [
    jax.grad(lambda p, i=i: three.losses_of(p)[i])(params) for i in (0, 1)
  ]
  expected = jax.tree.map(
    lambda *leaves: sum(map(jnp.multiply, weights[:2], leaves)), *rows
  )
  absent = OBJECTIVES[2]
  updates, state = balancer.update(
    pullback,
    asked,
    params,
    losses=losses | {absent: jnp.float32(np.nan)},
    present=dict.fromkeys(OBJECTIVES, 2) | {absent: 0},
  )
  checks.assert_close(updates, expected, 1e-4, 1e-5)
  checks.assert_equal(state.balance, asked.balance)


def test_a_step_in_between_costs_one_backward_pass():
  """XLA counts the longer branch; the other one uses given weights."""
  joint = parts.operations(weightings.fused_only())
  given = parts.operations(weightings.mgda(), weights=jnp.ones(3))
  assert given < 1.05 * joint


@pytest.mark.slow
def test_at_the_features_no_convolution_is_inside_the_conditional():
  params = {'kernel': jnp.ones((3, 3, 1, 5)), 'heads': jnp.ones((5, 3))}
  balancer = mimo_jax.every(balance(), steps=3)

  def losses_fn(params, cut=lambda features: features):
    pictures = lax.conv_general_dilated(
      jnp.ones((4, 8, 8, 1)),
      params['kernel'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    features = cut(jnp.mean(jnp.tanh(pictures), (1, 2)))
    return three.named(jnp.mean((features @ params['heads'] - 1) ** 2, axis=0))

  def convolutions(vjp):
    """Counts convolutions outside and inside the conditional."""

    def step(params, state):
      losses, pullback = vjp(losses_fn, params)
      return balancer.update(pullback, state, params, losses=losses)

    state = balancer.init(params)
    text = jax.jit(step).lower(params, state).compile().as_text()
    before, entry = text.split('\nENTRY ')
    assert ' conditional(' in entry
    return entry.count(' convolution('), before.count(' convolution(')

  outside, inside = convolutions(mimo_jax.vjp_at_features)
  assert outside > 0 and inside == 0
  assert convolutions(jax.vjp)[1] > 0


@pytest.mark.slow
def test_devices_agree_when_the_rule_is_asked():
  balancer = mimo_jax.every(balance(axis_name='d'), 2)
  shifts = 0.1 * jnp.arange(8.0)

  def step(given, shift):
    state, scale = given
    params = jax.tree.map(lambda leaf: scale * leaf, PARAMS)
    losses, pullback = jax.vjp(
      lambda p: three.named_losses_of(p, three.BATCH + shift[0]), params
    )
    return balancer.update(pullback, state, params, losses=losses)

  parallel, sharded = (
    shardable.on_devices(way, step) for way in ('pmap', 'shard_map')
  )
  states = [balancer.init(PARAMS)] * 2
  for scale in SCALES[:3]:
    updates, states[0] = parallel((states[0], scale), shifts)
    expected, states[1] = sharded((states[1], scale), shifts)
    checks.assert_close(updates, expected, 1e-4, 1e-4)
    checks.assert_close(*states, 1e-4, 1e-4)


def test_wrong_arguments_are_refused():
  with pytest.raises(ValueError, match='steps=0'):
    mimo_jax.every(balance(), 0)
  with pytest.raises(ValueError, match=r'every was .*balance'):
    mimo_jax.every(weightings.mgda(), 2)
  nameless = mimo_jax.every(mimo_jax.balance(weightings.mgda()), 2)
  with pytest.raises(ValueError, match='name the objectives'):
    nameless.init(PARAMS)
  chain = mimo_jax.every(optax.chain(balance(), optax.adam(0.1)), 2)
  with pytest.raises(
    ValueError, match=r'every was given a chain.*outside, because'
  ):
    chain.init(PARAMS)
  params, losses, pullback = at(1.0)
  for balancer, weights, message in (
    (balance(), jnp.ones(2), r'shape \(2,\) for 3 objectives'),
    (balance('sign agreement'), jnp.ones(3), 'a weighting for the Jacobian'),
    (balance(groups=lambda path: path[0]), jnp.ones(3), "groups.*'bias'"),
  ):
    with pytest.raises(ValueError, match=message):
      balancer.update(
        pullback, balancer.init(params), params, losses=losses, weights=weights
      )
