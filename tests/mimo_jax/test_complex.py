"""Complex parameters are pairs of reals, and integers are ignored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks

_NAMES = ('fused', 'audio', 'visual')
# All rules that see gradients, and one of each other kind.
_RULES = [
  *(
    name
    for name in weightings.__all__
    if getattr(weightings, name)().needs == 'jacobian'
  ),
  *('mimo', 'famo', 'mgda', 'modo'),
]
_PARAMS = {'w': jnp.array([0.5 - 1.5j, -0.7 + 0.2j]), 'b': jnp.array([0.3])}


def _losses_of(params, factor=1.0):
  w, b = params['w'] * factor, params['b']
  return {
    'fused': jnp.sum(jnp.abs(w - 1) ** 2) + jnp.sum(b**2),
    'audio': jnp.sum(jnp.abs(w + 2j) ** 2 * jnp.array([1.0, 3.0])),
    'visual': jnp.abs(w[0] * b[0] + 1j) ** 2,
  }


def _pairs(params):
  return {**params, 'w': jnp.stack([params['w'].real, params['w'].imag], -1)}


def _joined(pairs):
  return {**pairs, 'w': jax.lax.complex(pairs['w'][..., 0], pairs['w'][..., 1])}


def _steps(name, losses_of, params, form='pullback'):
  """Returns params after each step of gradient descent, and weights."""
  optimizer = mimo_jax.balance(getattr(weightings, name)(), objectives=_NAMES)

  @jax.jit
  def step(params, state):
    def updates_of(factor):
      losses, pullback = jax.vjp(lambda p: losses_of(p, factor), params)
      if form == 'pullback':
        return losses, pullback
      return losses, mimo_jax.pull_jacobian(pullback, losses)

    losses, given = updates_of(1.0)
    updates, state = optimizer.update(
      given,
      state,
      params,
      losses=losses,
      independent_updates=(updates_of(1.1)[1], updates_of(0.8)[1]),
      losses_after=losses,
    )
    # JAX gives the conjugate of the direction of ascent.
    params = jax.tree.map(
      lambda p, u: (p - 0.05 * jnp.conj(u)).astype(p.dtype), params, updates
    )
    return params, state

  state = optimizer.init(params)
  seen = []
  for _ in range(3):
    params, state = step(params, state)
    seen.append((params, state.weights))
  return seen


@functools.cache
def _steps_of_pairs(name):
  return _steps(
    name,
    lambda pairs, factor: _losses_of(_joined(pairs), factor),
    _pairs(_PARAMS),
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'form'),
  [
    *((name, 'pullback') for name in _RULES),
    *((name, 'jacobian') for name in ('mimo', 'mgda', 'graddrop', 'moco')),
  ],
)
def test_complex_params_are_pairs_of_reals_and_integers_are_ignored(name, form):
  counted = {'a step': jnp.int32(7), 'mask': jnp.array([True, False])}
  found = []
  for params, weights in _steps(name, _losses_of, _PARAMS | counted, form):
    for key, value in counted.items():
      np.testing.assert_array_equal(params.pop(key), value)
    found.append((_pairs(params), weights))
  checks.assert_close(found, _steps_of_pairs(name), 2e-4, 1e-5)


@pytest.mark.parametrize('size', [2, 5, 17])
def test_gramian_of_complex_gradients(size):
  random = np.random.RandomState(3)
  rows = random.normal(size=[size, 9, 2])
  gradients = jax.device_put(rows[..., 0] + 1j * rows[..., 1])
  flat = rows.reshape(size, -1)
  np.testing.assert_allclose(
    mimo_jax.gramian(gradients), flat @ flat.T, rtol=2e-5, atol=1e-5
  )


def test_complex_gradients_keep_the_convention_of_jax():
  """By hand: the gradients are 2 (z - 1) and 2 (z + 1)."""
  updates, _ = checks.first_step(
    mimo_jax.balance(weightings.pcgrad()),
    lambda z: [jnp.sum(jnp.abs(z - 1) ** 2), jnp.sum(jnp.abs(z + 1) ** 2)],
    jnp.array([0.5j]),
  )
  np.testing.assert_allclose(updates, [-3.2j], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('name', _RULES)
def test_params_may_be_empty(name):
  rule = getattr(weightings, name)()

  def losses_fn(_):
    return dict(zip(_NAMES, jnp.array([1.0, 2.0, 3.0]), strict=True))

  balance = mimo_jax.balance(rule, objectives=_NAMES)
  update = functools.partial(checks.first_step, balance, losses_fn, {})
  if rule.needs == 'jacobian':
    with pytest.raises(ValueError, match='no leaf of real or complex numbers'):
      update()
    return
  updates, state = jax.jit(update)()
  assert updates == {}
  assert np.all(np.isfinite(state.weights))
