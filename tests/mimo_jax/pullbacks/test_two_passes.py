"""Two passes give the Gramian and the update of all gradients at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives

_NAMES = three_objectives.OBJECTIVES
_RULE = three_objectives.products()


def _both(losses_fn, params, rule=_RULE, names=None, batch_size=1, **options):
  """Returns the update by all gradients at once, and by two passes."""
  balance = mimo_jax.balance(rule, objectives=names, **options)

  @jax.jit
  def update(params):
    losses, pullback = jax.vjp(losses_fn, params)
    rows = mimo_jax.two_passes(pullback, batch_size=batch_size)
    state = balance.init(params)
    return [
      balance.update(each, state, params, losses=losses)
      for each in (pullback, rows)
    ]

  return update(params)


@pytest.mark.parametrize(
  ('form', 'batch_size', 'backend'),  # all pairs
  [
    ('mapping', 1, 'cpu'),
    ('mapping', 2, 'gpu'),
    ('vector', 1, 'gpu'),
    ('vector', 2, 'cpu'),
  ],
)
def test_update_and_weights_are_the_same(
  form, batch_size, backend, monkeypatch
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)

  def losses_fn(params):
    losses = three_objectives.losses_of(params)
    if form == 'vector':
      return jnp.stack(losses)
    return three_objectives.named(losses)

  expected, actual = _both(
    losses_fn, three_objectives.PARAMS, names=_NAMES, batch_size=batch_size
  )
  checks.assert_close(actual, expected, rtol=2e-5, atol=1e-4)


@jax.custom_vjp
def _slower(value):
  return value


_slower.defvjp(
  lambda value: (value, None), lambda _, cotangent: (cotangent / 3,)
)


@pytest.mark.slow
def test_recurrence_checkpoints_custom_gradients_and_complex_params_work():
  params = {
    'w': jax.device_put(checks.standard_normal(3, 3)),
    'c': jnp.array([0.3 + 0.7j, -1.2 + 0.1j]),
  }

  def losses_fn(params):
    def step(state, _):
      return jnp.tanh(params['w'] @ _slower(state)), None

    state = jax.lax.scan(step, jnp.array([0.2, -0.5, 1.0]), None, length=4)[0]
    state = jax.checkpoint(jnp.sin)(state)
    spectrum = jnp.abs(params['c'] * (1 + 2j) + state[:2]) ** 2
    last = jnp.real(params['c'][0]) * state[2]
    return jnp.stack([jnp.sum(state**2), jnp.sum(spectrum), last])

  expected, actual = _both(losses_fn, params)
  for key in params:
    np.testing.assert_allclose(actual[0][key], expected[0][key], rtol=1e-4)


def test_params_may_include_integers():
  params = {'w': jnp.array([0.5, -2.0]), 'n': jnp.array([3, 2])}

  def losses_fn(params):
    return jnp.stack([jnp.sum(params['n'] * params['w'] ** 2), params['w'][0]])

  (expected, _), (actual, _) = _both(losses_fn, params, weightings.mgda())
  checks.assert_close(actual, expected)


def test_an_absent_objective_has_no_weight():
  def losses_fn(params):
    return {'fused': jnp.sum(params**2), 'a': params[0], 'b': 0.0 * params[1]}

  expected, actual = _both(
    losses_fn,
    jnp.array([1.0, -3.0]),
    weightings.mgda(),
    names=('fused', 'a', 'b'),
  )
  checks.assert_close(actual, expected)
  assert actual[1].weights[2] == 0


@pytest.mark.slow
def test_losses_may_be_scaled_in_float16():
  scale = 1024.0
  params = jnp.array([3.0, -2.0], jnp.float16)

  def losses_fn(params):
    losses = jnp.stack([params[0] * 2, params[1] * 5 - params[0], params[0]])
    return losses * scale, losses.astype(jnp.float32)

  balance = mimo_jax.balance(weightings.mgda())

  @jax.jit
  def update(params):
    _, pullback, losses = jax.vjp(losses_fn, params, has_aux=True)
    return balance.update(
      mimo_jax.two_passes(pullback), balance.init(params), losses=losses
    )

  updates, _ = update(params)
  # The products of these gradients, 1e7, overflow in float16.
  expected, _ = jax.jit(weightings.mgda().update)(
    mimo_jax.Observation(
      jnp.ones(3),
      jnp.array([[4.0, -2.0, 2.0], [-2.0, 26.0, -1.0], [2.0, -1.0, 1.0]]),
    ),
    None,
  )
  rows = np.array([[2.0, 0.0], [-1.0, 5.0], [1.0, 0.0]])
  np.testing.assert_allclose(
    np.float32(updates) / scale, np.asarray(expected) @ rows, rtol=2e-3
  )


def test_wrong_inputs_are_refused():
  params = jnp.ones(2)
  losses, pullback = jax.vjp(lambda p: p * jnp.array([1.0, 2.0]), params)
  for rule in (weightings.graddrop(), weightings.db_mtl()):
    balance = mimo_jax.balance(rule, objectives=('a', 'b'))
    with pytest.raises(ValueError, match='looks at whole gradients'):
      balance.update(
        mimo_jax.two_passes(pullback), balance.init(params), losses=losses
      )
  with pytest.raises(ValueError, match='batch_size=0; expected a whole number'):
    mimo_jax.two_passes(pullback, batch_size=0)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_objectives():
  width, rows = 256, 64
  params = [
    jax.device_put(checks.standard_normal(width, width, seed=i)) / 16
    for i in range(3)
  ]
  batch = jax.device_put(checks.standard_normal(rows, width, seed=9))

  def bytes_of(number, wrap):
    def losses_fn(params):
      hidden = batch
      for kernel in params:
        hidden = jnp.tanh(hidden @ kernel)
      return jnp.mean(hidden.reshape(number, -1) ** 2, axis=1)

    balance = mimo_jax.balance(
      mimo_jax.stateless(lambda o: jnp.sum(o.gramian, axis=1), needs='gramian')
    )

    def step(params):
      losses, pullback = jax.vjp(losses_fn, params)
      return balance.update(
        wrap(pullback), balance.init(params), params, losses=losses
      )[0]

    compiled = jax.jit(step).lower(params).compile()
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes

  few, many = (bytes_of(k, mimo_jax.two_passes) for k in (2, 32))
  assert many < 1.3 * few
  gradient = sum(4 * leaf.size for leaf in params)
  assert many < 3 * gradient < 20 * gradient < bytes_of(32, lambda p: p)


def test_weigh_on_chooses_the_parameters_that_the_rule_sees():
  params = {'a': jnp.array([1.0, -2.0]), 'b': jnp.array([0.5, 3.0])}

  def losses_fn(params):
    both = params['a'] * params['b']
    return jnp.stack([jnp.sum(both**2), both[0] - both[1], params['b'][1]])

  expected, actual = _both(
    losses_fn,
    params,
    names=('fused', 'audio', 'visual'),
    weigh_on=lambda path: path[0] == 'b',
  )
  checks.assert_close(actual, expected, rtol=1e-5)
  losses, pullback = jax.vjp(losses_fn, params)
  balance = mimo_jax.balance(_RULE, groups=lambda path: path[0])
  with pytest.raises(ValueError, match='groups, and a pullback that knows'):
    balance.update(
      mimo_jax.two_passes(pullback), balance.init(params), params, losses=losses
    )
