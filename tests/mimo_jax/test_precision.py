"""Losses of one type and a pullback of another: loss scaling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings

_SCALE = 256.0
_NAMES = ('fused', 'audio', 'visual')


def _losses_of(params):
  return {
    'fused': (params['p'] + 0.2 - 2) ** 2,
    'audio': (params['p'] - 1) ** 2,
    'visual': (params['p'] - 0.8) ** 2,
    'constant': jnp.float32(3.0),
  }


def _scaled(params, names):
  losses = _losses_of(params)
  scaled = {
    name: losses[name] * losses[name].dtype.type(_SCALE) for name in names
  }
  return scaled, {name: losses[name].astype(jnp.float32) for name in names}


@pytest.mark.parametrize('form', ['mapping', 'vector'])
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize('rule', ['mimo', 'mgda'])
def test_unscaled_losses_beside_the_pullback_of_scaled_ones(rule, dtype, form):
  params = {'p': jnp.asarray(0.5, dtype)}
  names = (*_NAMES, 'constant') if form == 'mapping' else _NAMES

  def scaled(params):
    losses, aux = _scaled(params, names)
    if form == 'vector':
      return tuple(jnp.stack(list(each.values())) for each in (losses, aux))
    return losses, aux

  optimizer = mimo_jax.balance(getattr(weightings, rule)(), objectives=names)
  _, pullback, losses = jax.vjp(scaled, params, has_aux=True)
  updates, state = optimizer.update(
    pullback, optimizer.init(params), params, losses=losses
  )
  assert updates['p'].dtype == dtype

  wide = {'p': jnp.float32(params['p'])}
  losses, pullback = jax.vjp(lambda p: _scaled(p, names)[1], wide)
  expected, exact = optimizer.update(
    pullback, optimizer.init(wide), wide, losses=losses
  )
  tolerance = 4 * float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(
    state.weights, exact.weights, rtol=0, atol=4 * tolerance
  )
  np.testing.assert_allclose(
    np.float32(updates['p']) / _SCALE, expected['p'], rtol=4 * tolerance
  )
