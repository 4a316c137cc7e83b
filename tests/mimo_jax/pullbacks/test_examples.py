"""An objective for each example: the Gramian of all, in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks

_BATCH = {
  'x': jax.device_put(checks.standard_normal(5, 3)),
  'y': jnp.array([0, 1, 1, 0, 1]),
}
_PARAMS = {
  'w': jax.device_put(checks.standard_normal(3, 2, seed=2)),
  'b': jnp.array([0.3, -0.8]),
}


def _one(params, example):
  outputs = jnp.tanh(example['x'] @ params['w'] + params['b'])
  return jnp.sum(outputs**2) - outputs[example['y']]


def _two(params, example):
  other = 2 * jnp.sum(params['b'] * example['x'][0])
  return jnp.stack([_one(params, example), other])


_RULES = {
  # Weights that depend on every entry and every loss.
  'entries': mimo_jax.stateless(
    lambda o: o.gramian @ jnp.cos(jnp.arange(len(o.losses))) + o.losses,
    needs='gramian',
  ),
  'mgda': weightings.mgda(),
  'losses': mimo_jax.stateless(lambda o: o.losses, needs='losses'),
}


@pytest.mark.parametrize(
  ('loss_fn', 'batch_size', 'backend'),
  [
    (_two, 2, 'cpu'),
    checks.slow(_two, 2, 'gpu'),
    checks.slow(_one, 3, 'cpu'),
    checks.slow(_one, 16, 'gpu'),
  ],
)
def test_the_update_is_that_of_all_gradients_at_once(
  loss_fn, batch_size, backend, monkeypatch
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)

  @functools.partial(jax.jit, static_argnums=0)
  def both(rule):
    balance = mimo_jax.balance(_RULES[rule])
    state = balance.init(_PARAMS)
    losses, pullback = mimo_jax.vjp_of_examples(
      loss_fn, _PARAMS, _BATCH, batch_size=batch_size
    )
    actual, _ = balance.update(pullback, state, _PARAMS, losses=losses)

    def all_losses(params):
      each = jax.vmap(loss_fn, in_axes=(None, 0))(params, _BATCH)
      return each.reshape(-1)

    plain, plain_pullback = jax.vjp(all_losses, _PARAMS)
    expected, _ = balance.update(plain_pullback, state, _PARAMS, losses=plain)
    return (losses.reshape(-1), actual), (plain, expected)

  for rule in _RULES if batch_size == 3 else ('entries',):
    actual, expected = both(rule)
    checks.assert_close(actual, expected, rtol=1e-4, atol=1e-5, name=rule)
    assert np.linalg.norm(actual[1]['w']) > 1e-3


def test_wrong_inputs_are_refused():
  of = mimo_jax.vjp_of_examples
  with pytest.raises(ValueError, match=r'begin with \[\(2,\), \(3,\)\]'):
    of(_one, _PARAMS, {'x': jnp.ones((2, 3)), 'y': jnp.ones(3, int)})
  with pytest.raises(ValueError, match='no examples'):
    of(_one, _PARAMS, jax.tree.map(lambda x: x[:0], _BATCH))
  with pytest.raises(ValueError, match=r"returned \{'a': \(\)\}.*jnp.stack"):
    of(lambda p, e: {'a': _one(p, e)}, _PARAMS, _BATCH)
  with pytest.raises(
    ValueError, match=r'batch_size=1.5; expected a whole number'
  ):
    of(_one, _PARAMS, _BATCH, batch_size=1.5)
