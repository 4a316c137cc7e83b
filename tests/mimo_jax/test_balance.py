"""The gradient transformation in training: state, cost, infinite values.

`test_objectives.py` has the forms that it takes, `test_balance_inputs.py` their
types and the extra arguments, `test_devices.py` the averages.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from tests import checks
from tests.mimo_jax import three_objectives as three

PARAMS, BATCH = three.PARAMS, three.BATCH
each_kind = pytest.mark.parametrize(
  'rule',
  [
    'inverse lengths',
    'smoothed',
    *map(checks.slow, ('constant', 'mgda', 'sign agreement', 'scheduled mimo')),
  ],
)


def assert_near(actual, expected, name='', rtol=2e-5, atol=1e-5):
  checks.assert_close(actual, expected, rtol, atol, name)


def balanced(rule):
  return mimo_jax.balance(three.RULES[rule], objectives=three.OBJECTIVES)


class Fault(NamedTuple):
  """Makes the loss of audio, or its gradient in the bias, not finite."""

  added: float = 0.0  # to the loss
  sign: float = 1.0  # of a gradient that is 1/2 times ...
  room: float = 1.0  # ... the inverse root of this


GOOD = Fault()
BAD_LOSSES = {
  'NaN': GOOD._replace(added=np.nan),
  '-inf': GOOD._replace(added=-np.inf),
}
BAD_GRADIENTS = {'NaN': Fault(sign=0.0, room=0.0), '-inf': Fault(0.0, -1.0, 0)}


def faulty(params, batch, fault):
  """`three.losses_of`, whose last loss is at fault."""
  losses = three.losses_of(params, batch)
  bias = params['bias']
  root = jnp.sqrt(bias - jax.lax.stop_gradient(bias) + fault.room)
  losses[2] += fault.sign * root + fault.added
  return three.named(losses)


def step_of(optimizer, losses_fn=three.named_losses_of, traces=None):
  """Makes a step that gives the pullback of a mapping of losses."""

  def step(params, state, *args):
    if traces is not None:
      traces.append(1)
    losses, pullback = jax.vjp(lambda p: losses_fn(p, *args), params)
    updates, state = optimizer.update(pullback, state, params, losses=losses)
    return optax.apply_updates(params, updates), state

  return step


@functools.cache
def trainer(rule):
  """Makes a chain with a guard: its step, jitted step, and list of traces."""
  optimizer = optax.chain(
    balanced(rule), optax.apply_if_finite(optax.adam(1e-2), 5)
  )
  traces = []
  step = step_of(optimizer, faulty, traces)
  return optimizer, step, jax.jit(step), traces


# Training.

TAILS = {
  'sgd': optax.sgd(1e-2),
  'adamw': optax.adamw(3e-2, weight_decay=0.1),
  'clip and adam': optax.chain(
    optax.clip_by_global_norm(0.7), optax.adam(3e-2)
  ),
  'accumulation': optax.MultiSteps(
    optax.adam(3e-2), every_k_schedule=3
  ).gradient_transformation(),
  'guard': optax.apply_if_finite(optax.adam(3e-2), 5),
  'schedule': optax.sgd(optax.linear_schedule(1e-2, 1e-3, 4), momentum=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['constant', 'inverse lengths'])
def test_chain_is_the_optimizer_on_the_hand_made_direction(rule):
  chains = {
    name: optax.chain(balanced(rule), tail) for name, tail in TAILS.items()
  }

  def plain_step(tail, params, state):
    updates, state = tail.update(three.hand_made(rule, params), state, params)
    return optax.apply_updates(params, updates), state

  @jax.jit
  def step(carries, by_hand):
    return (
      {name: step_of(chains[name])(*carries[name]) for name in TAILS},
      {name: plain_step(TAILS[name], *by_hand[name]) for name in TAILS},
    )

  carries, by_hand = (
    {name: (PARAMS, tail.init(PARAMS)) for name, tail in tails.items()}
    for tails in (chains, TAILS)
  )
  for _ in range(7):
    carries, by_hand = step(carries, by_hand)
  for name in TAILS:
    params, expected = carries[name][0], by_hand[name][0]
    assert_near(params, expected, name, rtol=1e-3, atol=1e-4)
    assert abs(params['bias'] - PARAMS['bias']) > 1e-3, name


@pytest.mark.slow
def test_partition_weights_each_encoder_separately():
  balances = {name: balanced(name) for name in ('mgda', 'constant')}
  optimizer = optax.partition(
    {
      'audio': balances['mgda'],
      'visual': optax.chain(balances['mgda'], optax.scale(-0.5)),
      'rest': balances['constant'],
    },
    {'encoders': {'audio': 'audio', 'visual': ['visual']}, 'bias': 'rest'},
  )

  @jax.jit
  def update(params, state):
    stacked = jax.jacrev(lambda p: jnp.stack(three.losses_of(p)))(params)
    return optimizer.update(
      stacked, state, params, losses=three.named_losses_of(params)
    )

  updates, state = update(PARAMS, optimizer.init(PARAMS))

  def of_encoder(name):
    def losses_fn(encoder):
      encoders = PARAMS['encoders'] | {name: encoder}
      return three.losses_of(PARAMS | {'encoders': encoders})

    return three.hand_made('mgda', PARAMS['encoders'][name], losses_fn)

  visual = jax.tree.map(lambda leaf: -0.5 * leaf, of_encoder('visual'))
  assert_near(
    updates,
    {
      'encoders': {'audio': of_encoder('audio'), 'visual': visual},
      'bias': three.hand_made('constant')['bias'],
    },
  )
  np.testing.assert_array_equal(
    state.inner_states['rest'].inner_state.weights, [0.5, 2, -1]
  )


@each_kind
def test_a_chain_traces_once_and_continues_exactly_from_a_saved_state(rule):
  optimizer, _, step, traces = trainer(rule)
  carry = PARAMS, optimizer.init(PARAMS)
  traces.clear()  # of tests before
  for _ in range(2):
    carry = step(*carry, BATCH, GOOD)
  saved = [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]
  structure = jax.tree.structure((PARAMS, optimizer.init(PARAMS)))
  restored = jax.tree.unflatten(structure, saved)
  checks.assert_equal(step(*restored, BATCH, GOOD), step(*carry, BATCH, GOOD))
  assert len(traces) <= 1


@pytest.mark.slow
def test_a_chain_without_objectives_traces_once():
  names = ('fused', 'visual', 'audio')
  for rule in ('mimo', 'scheduled mimo', 'mgda'):
    optimizer = optax.chain(
      mimo_jax.balance(three.RULES[rule]), optax.adam(1e-2)
    )
    traces = []
    step = jax.jit(
      step_of(
        optimizer, lambda p: three.named(three.losses_of(p), names), traces
      )
    )
    carry = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
      carry = step(*carry)
    assert len(traces) == 1, rule
    # The number of objectives is unknown when the state is made.
    assert carry[1][0].weights is None


@pytest.mark.slow
@each_kind
def test_a_scan_of_steps_under_vmap_is_the_loop(rule):
  optimizer, step, compiled, _ = trainer(rule)
  batches = jnp.stack([BATCH, 0.8 * BATCH, 1.1 * BATCH])
  starts = [
    jax.tree.map(lambda leaf, seed=seed: leaf * (1 + 0.1 * seed), PARAMS)
    for seed in range(3)
  ]

  @jax.jit
  @jax.vmap
  def train(params):
    return jax.lax.scan(
      lambda carry, batch: (step(*carry, batch, GOOD), None),
      (params, optimizer.init(params)),
      batches,
    )[0]

  together = train(checks.stacked(*starts))
  for i, params in enumerate(starts):
    carry = params, optimizer.init(params)
    for batch in batches:
      carry = compiled(*carry, batch, GOOD)
    assert_near(checks.at(together, i), carry, rtol=1e-4, atol=1e-4)


# The state.


def test_state_keeps_its_structure_shapes_and_types(x64):
  wide = jnp.float64 if x64 else jnp.float32
  for rule in three.RULES:
    optimizer = balanced(rule)
    first = optimizer.init(PARAMS)
    assert first.weights.dtype == wide
    np.testing.assert_array_equal(first.weights, [0, 0, 0])
    _, last = jax.eval_shape(step_of(optimizer), PARAMS, first)
    assert checks.types_of(last) == checks.types_of(first), rule


def test_last_weights_are_read_from_the_state():
  optimizer = optax.chain(
    mimo_jax.balance(mimo_jax.mimo(2.0, 0.5), objectives=three.OBJECTIVES),
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-2),
  )
  _, state = jax.jit(step_of(optimizer))(PARAMS, optimizer.init(PARAMS))
  shares = jax.nn.softmax(jnp.stack(three.losses_of(PARAMS))[1:] / 0.5)
  np.testing.assert_allclose(
    optax.tree.get(state, 'weights'), np.append(1, 2 * shares), rtol=1e-5
  )


def test_weights_of_each_coordinate_are_logged_as_their_mean():
  optimizer = balanced('sign agreement')

  @jax.jit
  def update(params):
    value_and_jacobian = mimo_jax.value_and_jacobian(three.named_losses_of)
    losses, jacobian = value_and_jacobian(params)
    state = optimizer.init(params)
    _, state = optimizer.update(jacobian, state, params, losses=losses)
    return jacobian, state

  jacobian, state = update(PARAMS)
  flat = np.stack([checks.flat(jacobian[name]) for name in three.OBJECTIVES])
  agreeing = flat * flat.sum(0) > 0
  assert len(set(agreeing.mean(1))) > 1
  np.testing.assert_allclose(state.weights, agreeing.mean(1), rtol=1e-6)


def test_a_users_stateful_rule_sees_its_state():
  optimizer, _, step, _ = trainer('smoothed')
  params, state = PARAMS, optimizer.init(PARAMS)
  mean = np.zeros(3)
  for count in range(1, 4):
    losses = np.array(list(faulty(params, BATCH, GOOD).values()))
    mean = 0.75 * mean + 0.25 * losses
    _, state = step(params, state, BATCH, GOOD)
    params = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    np.testing.assert_allclose(state[0].weighting.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(state[0].weights, mean / mean.sum(), rtol=1e-5)
    assert state[0].weighting.seen == count


def test_unknown_extra_arguments_are_ignored():
  updates, _ = checks.first_step(
    balanced('constant'), three.named_losses_of, PARAMS, value=3.0, grad=None
  )
  assert_near(updates, three.hand_made('constant'))


# The cost.


def test_rules_for_losses_pull_back_once_and_others_k_times():
  pulls = []

  @jax.custom_vjp
  def through(params):
    return params

  def backward(_, cotangents):
    pulls.append(1)
    return (cotangents,)

  through.defvjp(lambda params: (params, None), backward)

  def update(rule, wrapped):
    optimizer = balanced(rule)
    losses, pullback = jax.vjp(
      lambda params: three.named_losses_of(through(params)), PARAMS
    )
    return optimizer.update(
      (lambda cotangent: pullback(cotangent)) if wrapped else pullback,
      optimizer.init(PARAMS),
      PARAMS,
      losses=losses,
    )

  for rule in three.RULES:
    for wrapped in (False, True):
      pulls.clear()
      jax.eval_shape(functools.partial(update, rule, wrapped))
      expected = 1 if three.RULES[rule].needs == 'losses' else 3
      assert len(pulls) == expected, (rule, wrapped)


# Values that are not finite.


@each_kind
def test_values_that_are_not_finite_show_in_updates_but_not_in_the_state(rule):
  optimizer = balanced(rule)

  @jax.jit
  def updates_of(state, fault):
    losses, pullback = jax.vjp(lambda p: faulty(p, BATCH, fault), PARAMS)
    jacobian = mimo_jax.pull_jacobian(pullback, losses)
    return [
      optimizer.update(given, state, PARAMS, losses=losses)
      for given in (pullback, jacobian)
    ]

  good = updates_of(optimizer.init(PARAMS), GOOD)[0][1]
  assert np.any(good.weights != 0)
  for value, fault in BAD_LOSSES.items():
    for updates, state in updates_of(good, fault):
      checks.assert_equal(state, good)
      assert not np.any(np.isfinite(checks.flat(updates))), value
  for value, fault in BAD_GRADIENTS.items():
    for updates, state in updates_of(good, fault):
      assert not np.all(np.isfinite(checks.flat(updates))), value
      # A rule with state ignores the step. One without has nothing to ignore,
      # and its weights follow from the losses, which are finite.
      checks.assert_equal(state.weighting, good.weighting)
      if jax.tree.leaves(good.weighting):
        checks.assert_equal(state.weights, good.weights)
      assert np.all(np.isfinite(state.weights)), value


@each_kind
def test_a_guard_skips_exactly_the_step_that_is_not_finite(rule):
  optimizer, _, step, _ = trainer(rule)

  def trained(faults):
    carry = PARAMS, optimizer.init(PARAMS)
    for number, fault in enumerate(faults):
      carry = step(*carry, BATCH, fault)
      if fault is not GOOD:
        assert carry[1][1].notfinite_count == 1, number
    return carry

  params, state = trained(
    [GOOD, BAD_LOSSES['NaN'], GOOD, BAD_GRADIENTS['NaN'], GOOD]
  )
  expected, expected_state = trained([GOOD] * 3)
  assert_near(params, expected, rtol=1e-6, atol=1e-7)
  assert state[1].total_notfinite == 2
  assert state[1].notfinite_count == 0
  assert_near(state[0].weighting, expected_state[0].weighting, rtol=1e-6)
