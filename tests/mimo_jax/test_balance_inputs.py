"""All rules in `balance`; extra arguments of some; narrow types."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three

PARAMS, BATCH = three.PARAMS, three.BATCH


def balanced(rule):
  return mimo_jax.balance(rule, objectives=three.OBJECTIVES)


def shifted_losses(shift):
  """Losses of another batch, imitated by params moved a little."""
  return lambda params: three.named_losses_of(
    jax.tree.map(lambda leaf: leaf * (1 + shift) + shift, params)
  )


# All rules with state, and one of each kind without.
@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    name
    for name in weightings.__all__
    if name in ('sum', 'mgda', 'trimmed_mean')
    or jax.tree.leaves(getattr(weightings, name)().init(3, PARAMS))
  ],
)
def test_weightings_train_in_a_chain_and_ignore_a_bad_step(name):
  rule = getattr(weightings, name)()
  optimizer = optax.chain(balanced(rule), optax.sgd(1e-2))
  traces = []

  @jax.jit
  def step(params, state, poison):
    traces.append(1)
    losses, pullback = jax.vjp(
      lambda p: jax.tree.map(
        lambda loss: loss + poison, three.named_losses_of(p)
      ),
      params,
    )
    updates, state = optimizer.update(
      pullback,
      state,
      params,
      losses=losses,
      losses_after=losses,
      independent_updates=[
        jax.vjp(shifted_losses(shift), params)[1] for shift in (0.1, -0.2)
      ],
    )
    return optax.apply_updates(params, updates), state

  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(3):
    params, state = step(params, state, 0.0)
    assert np.all(np.isfinite(checks.flat(params)))
  assert optax.tree.get(state, 'weights').shape == (3,)
  bad_params, bad_state = step(params, state, jnp.nan)
  assert len(traces) == 1
  checks.assert_equal(bad_state, state)
  assert not np.any(np.isfinite(checks.flat(bad_params)))


# Extra arguments.


def test_independent_updates_make_the_cross_gramian():
  rule = weightings.modo(step_size=0.3)
  rule = rule._replace(update=jax.jit(rule.update))
  optimizer = balanced(rule)
  functions = [shifted_losses(0.1), shifted_losses(-0.2)]

  @jax.jit
  def updates_of(params):
    losses, pullback = jax.vjp(three.named_losses_of, params)
    pullbacks = [jax.vjp(function, params)[1] for function in functions]
    jacobians = [jax.jacrev(function)(params) for function in functions]
    found = []
    for pair in (pullbacks, tuple(jacobians), (pullbacks[0], jacobians[1])):
      updates, state = optimizer.update(
        pullback,
        optimizer.init(params),
        params,
        losses=losses,
        independent_updates=pair,
      )
      (direction,) = pullback(three.named(list(state.weights)))
      found.append((updates, state.weights, direction))
    return losses, jacobians, found

  losses, jacobians, found = updates_of(PARAMS)
  first, second = (
    np.stack([checks.flat(each[name]) for name in three.OBJECTIVES])
    for each in jacobians
  )
  expected, _ = rule.update(
    mimo_jax.Observation(
      jnp.stack([losses[name] for name in three.OBJECTIVES]),
      cross_gramian=jnp.asarray(first @ second.T, jnp.float32),
    ),
    rule.init(3),
  )
  assert np.ptp(expected) > 0.01
  for updates, weights, direction in found:
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    checks.assert_close(updates, direction, 2e-5, 1e-5)


def test_losses_after_come_in_the_form_of_the_losses():
  rule = weightings.famo()
  rule = rule._replace(update=jax.jit(rule.update))
  optimizer = balanced(rule)
  losses, pullback = jax.vjp(three.named_losses_of, PARAMS)
  vector = jnp.stack([losses[name] for name in three.OBJECTIVES])
  state, rule_state = optimizer.init(PARAMS), rule.init(3)
  for scale in (np.ones(3), np.array([0.5, 0.9, 1.2])):
    after = three.named(jnp.float32(scale) * vector)
    _, state = optimizer.update(
      pullback,
      state,
      PARAMS,
      losses=losses,
      losses_after=dict(reversed(after.items())),
    )
    weights, rule_state = rule.update(
      mimo_jax.Observation(vector, losses_after=jnp.float32(scale) * vector),
      rule_state,
    )
  assert np.ptp(weights) > 1e-3
  np.testing.assert_allclose(state.weights, weights, rtol=1e-5)


def test_extra_arguments_that_are_needed_are_checked():
  losses, pullback = jax.vjp(three.named_losses_of, PARAMS)
  modo, famo = balanced(weightings.modo()), balanced(weightings.famo())
  for message, optimizer, extra in (
    (r"'independent_updates', but balance was not given it", modo, {}),
    (r'but balance was not given it', modo, {'independent_updates': None}),
    (r'is a int; expected a pair', modo, {'independent_updates': 3}),
    (r"'losses_after', but balance was not given it", famo, {}),
    (r"losses_after .*missing .*'audio'", famo, {'losses_after': {'joint': 1}}),
    (r'2 values; expected 3', famo, {'losses_after': [1.0, 2.0]}),
  ):
    with pytest.raises(ValueError, match=message):
      optimizer.update(
        pullback, optimizer.init(PARAMS), PARAMS, losses=losses, **extra
      )


# Types.


@pytest.mark.slow
def test_bfloat16_has_bfloat16_updates_and_float32_weights():
  narrow = checks.as_type(PARAMS, jnp.bfloat16)

  def of_wide_losses(params):
    return three.named_losses_of(checks.as_type(params, jnp.float32))

  def of_narrow_losses(params):
    batch = BATCH.astype(jnp.bfloat16)
    losses = three.named_losses_of(params, batch)
    assert losses['audio'].dtype == params['bias'].dtype
    return losses

  rules = {name: three.RULES[name] for name in three.KINDS}
  for name, rule in (rules | {'moco': weightings.moco()}).items():
    optimizer = balanced(rule)

    @jax.jit
    def updates_of(params, optimizer=optimizer):
      wide, pullback = jax.vjp(of_wide_losses, params)
      narrow, jacobian = mimo_jax.value_and_jacobian(of_narrow_losses)(params)
      return [
        optimizer.update(given, optimizer.init(params), params, losses=losses)
        for given, losses in ((pullback, wide), (jacobian, narrow))
      ]

    # A `Direction` comes from the rule, in the types of the gradients.
    exact = updates_of(checks.as_type(narrow, jnp.float32))[0][0]
    if name in rules:
      rounded = checks.as_type(narrow, jnp.float32)
      checks.assert_close(exact, three.hand_made(name, rounded), 1e-4, 1e-4)
    for updates, state in updates_of(narrow):
      assert state.weights.dtype == jnp.float32, name
      for leaf, wide in zip(
        jax.tree.leaves(updates), jax.tree.leaves(exact), strict=True
      ):
        assert leaf.dtype == jnp.bfloat16, name
        gap = np.max(np.abs(np.asarray(leaf, float) - wide))
        assert gap <= 0.05 * (1 + np.max(np.abs(wide))), name


def _first_step(balance):
  return checks.first_step(balance, three.named_losses_of, PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['mimo', 'nash_mtl'])
def test_a_search_for_nans_operation_by_operation_finds_none(rule):
  balance = mimo_jax.balance(
    getattr(weightings, rule)(),
    objectives=three.OBJECTIVES,
    groups=lambda path: path[0],
    shared=lambda path: path[0] != 'bias',
  )
  expected = jax.jit(lambda: _first_step(balance))()
  with jax.debug_nans(True), jax.disable_jit():
    found = _first_step(balance)
  checks.assert_close(found, expected, 1e-4, 1e-5)


@pytest.mark.slow
def test_hyperparameters_of_balance_are_injected():
  """Optax takes functions for schedules, but these are not."""

  def rule_of(penalty):
    return balanced(mimo_jax.mimo(penalty))

  # A rule is no function, so optax does not change it.
  direct = optax.inject_hyperparams(mimo_jax.balance)(
    weightings.mgda(), objectives=three.OBJECTIVES
  )
  inside = optax.inject_hyperparams(rule_of)(penalty=2.0)
  for injected, plain in (
    (direct, balanced(weightings.mgda())),
    (inside, rule_of(2.0)),
  ):
    found, expected = jax.jit(
      lambda injected=injected, plain=plain: (
        _first_step(injected)[0],
        _first_step(plain)[0],
      )
    )()
    checks.assert_close(found, expected, 1e-6)


def test_weights_of_a_whole_batch_are_had_by_a_scan_over_its_parts():
  """As the guide says beside MultiSteps, which weighs each part alone."""
  balance = mimo_jax.balance(
    weightings.mgda(), objectives=('fused', 'one', 'two')
  )
  params = jnp.array([1.0, -2.0, 0.5])
  batch = jnp.asarray(checks.standard_normal(8, 3), jnp.float32)

  def losses_of(params, batch):
    one, two = jnp.tanh(batch @ params), batch @ params**2
    each = {'fused': (one + two) ** 2, 'one': one**2, 'two': (two - 1) ** 2}
    return jax.tree.map(jnp.mean, each)

  def accumulated(params, batch):
    parts = batch.reshape(4, 2, 3)
    zero = jax.tree.map(jnp.zeros_like, losses_of(params, batch))

    @jax.checkpoint
    def add(total, part):
      losses = losses_of(params, part)
      return jax.tree.map(lambda a, b: a + b / 4, total, losses), None

    return lax.scan(add, zero, parts)[0]

  def update(losses_fn):
    losses, pullback = jax.vjp(lambda p: losses_fn(p, batch), params)
    return balance.update(pullback, balance.init(params), params, losses=losses)

  checks.assert_close(update(accumulated), update(losses_of), 1e-5)
