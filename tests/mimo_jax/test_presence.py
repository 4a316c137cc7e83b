"""What `balance` makes of `present`; `weightings/test_absent.py` has rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import shardable
from tests.mimo_jax import three_objectives

_NAMES = ('fused', 'audio', 'visual')


def _observed(rule):
  """Wraps a rule so that its state has the losses that it sees."""
  return mimo_jax.stateful(
    lambda size: jnp.zeros(size),
    lambda seen, _: (rule.update(seen, None)[0], seen.losses),
    needs=rule.needs,
  )


def test_present_has_the_form_of_the_losses():
  balance = mimo_jax.balance(_observed(mimo_jax.mimo()), objectives=_NAMES)
  params = jnp.array([1.0, -2.0, 3.0])

  def losses_fn(params):
    losses = dict(zip(_NAMES, params**2, strict=True))
    return losses | {'audio': 0.0 * params[1]}

  losses, pullback = jax.vjp(losses_fn, params)
  state = balance.init(params)
  told = losses | {'audio': jnp.float32(np.nan)}  # the mean of no rows

  @jax.jit
  def update(losses, present):
    return balance.update(
      pullback, state, params, losses=losses, present=present
    )

  for present in (
    {'visual': 3, 'audio': 0, 'fused': 5},
    {'visual': True, 'audio': False, 'fused': True},
  ):
    updates, new = update(told, present)
    np.testing.assert_allclose(new.weights, [1, 0, 1])
    np.testing.assert_allclose(new.weighting, [1, 0, 9])
    np.testing.assert_allclose(updates, [2, 0, 6])
  updates, new = update(losses, dict.fromkeys(_NAMES, 0))
  np.testing.assert_array_equal(updates, 0)
  checks.assert_equal(new, state)
  for present, message in (
    ({'fused': 1, 'visual': 1}, r"missing \['audio'\]"),
    (dict.fromkeys(_NAMES, np.ones(8)), r'shape \(8,\)'),  # a mask
  ):
    with pytest.raises(
      ValueError, match=f'present must have .*{message}.*present_rows'
    ):
      balance.update(pullback, state, losses=losses, present=present)


@pytest.mark.parametrize(
  ('form', 'options'),
  [
    (form, options)
    for form in ('pullback', 'Jacobian', 'two passes')
    for options in ('all', 'shared', 'weigh_on', 'groups')
    if (form, options) != ('two passes', 'groups')  # which is refused
  ],
)
def test_the_gradient_of_an_absent_objective_is_ignored(form, options):
  """It may be that of a penalty on params, which needs no rows."""
  chosen = {
    'all': {},
    'shared': {'shared': lambda path: path[0] != 'bias'},
    'weigh_on': {'weigh_on': lambda path: path[0] != 'bias'},
    'groups': {'groups': lambda path: path[0]},
  }[options]
  params = {'w': jnp.array([0.3, -1.0, 2.0]), 'bias': jnp.array([0.7, 0.2])}
  rows = jax.device_put(checks.standard_normal(3, 5))

  rules = [three_objectives.products(), mimo_jax.mimo()]
  if form != 'two passes' and options == 'all':
    rules.append(weightings.graddrop())

  @jax.jit
  def updates_of(penalty):
    def losses_fn(params):
      flat = jnp.concatenate([params['w'], params['bias']])
      losses = dict(zip(_NAMES, (rows @ flat) ** 2, strict=True))
      return losses | {'audio': penalty * jnp.sum(flat**2)}

    losses, pullback = jax.vjp(losses_fn, params)
    if form == 'Jacobian':
      pullback = mimo_jax.pull_jacobian(pullback, losses)
    elif form == 'two passes':
      pullback = mimo_jax.two_passes(pullback)
    balances = [
      mimo_jax.balance(rule, objectives=_NAMES, **chosen) for rule in rules
    ]
    return [
      balance.update(
        pullback,
        balance.init(params),
        params,
        losses=losses,
        present={'fused': 3, 'audio': 0, 'visual': 1},
      )
      for balance in balances
    ]

  found = updates_of(5.0)
  checks.assert_close(found, updates_of(0.0), rtol=1e-5)
  for updates, _ in found:
    assert np.min(np.abs(checks.flat(updates))) > 1e-3


@pytest.mark.slow
def test_without_objectives_no_remembered_gradient_is_applied():
  balance = mimo_jax.balance(weightings.db_mtl(), objectives=_NAMES)
  params = jnp.array([1.0, -2.0, 3.0])
  losses, pullback = jax.vjp(lambda p: p**2 + 1, params)

  @jax.jit
  def steps():
    _, state = balance.update(
      pullback, balance.init(params), params, losses=losses
    )
    return state, balance.update(
      lambda _: (jnp.zeros(3),),
      state,
      params,
      losses=losses,
      present=jnp.zeros(3),
    )

  state, (updates, new) = steps()
  np.testing.assert_array_equal(updates, 0)
  checks.assert_equal(new.weighting, state.weighting)


# On devices.

_PARAMS = {'w': jax.device_put(checks.standard_normal(5, 2)), 'b': jnp.ones(2)}
_BATCH = {
  'x': jax.device_put(checks.standard_normal(24, 5, seed=1)),
  'mask': jnp.arange(24) % 7 < 3,
}  # devices have 0, 1, 2 or 3 of 3 rows
_ON_DEVICES = {
  'mimo': mimo_jax.mimo(1.5, 0.8),
  'products': three_objectives.products(),
  'products, two passes': three_objectives.products(),
  'products, features': three_objectives.products(),
}


def _losses_and_rows(batch, params, cut=lambda features: features):
  """Returns losses; and the same, where a mean of no rows is NaN, with rows."""
  mask = batch['mask']
  count = jnp.sum(mask)
  outputs = cut(jnp.tanh(batch['x'] @ params['w'] + params['b'][None]))
  audio = jnp.where(mask, (outputs[:, 0] + 0.5) ** 2, 0)
  losses = {
    'fused': jnp.mean((outputs[:, 0] - outputs[:, 1]) ** 2),
    'audio': jnp.sum(audio) / jnp.maximum(count, 1),
    'visual': jnp.mean((outputs[:, 1] - 1) ** 2),
  }
  told = losses | {'audio': jnp.where(count == 0, jnp.nan, losses['audio'])}
  return losses, (told, dict.fromkeys(_NAMES, len(mask)) | {'audio': count})


def _pulled(params, batch, vjp=jax.vjp):
  _, pullback, (losses, present) = vjp(
    functools.partial(_losses_and_rows, batch), params, has_aux=True
  )
  return losses, pullback, present


def _update(params, batch, name, axis_name=None):
  balance = mimo_jax.balance(
    _ON_DEVICES[name], objectives=_NAMES, axis_name=axis_name
  )
  at_features = name.endswith('features')
  vjp = mimo_jax.vjp_at_features if at_features else jax.vjp
  losses, pullback, present = _pulled(params, batch, vjp)
  if name.endswith('passes'):
    pullback = mimo_jax.two_passes(pullback)
  updates, state = balance.update(
    pullback, balance.init(params), params, losses=losses, present=present
  )
  return updates, state.weights


def _updates(params, batch, axis_name=None):
  """Updates with each rule; returns the updates by name."""
  turned = {'x': batch['x'][:, ::-1], 'mask': ~batch['mask']}
  other = {'x': batch['x'] ** 2, 'mask': batch['mask'] & (batch['x'][:, 0] > 0)}
  losses, pullback, present = _pulled(params, batch)
  after, pullback_after, present_after = _pulled(params, turned)
  _, pullback_of_other, present_of_other = _pulled(params, other)
  extra_args = {
    'losses_after': jax.tree.map(lambda loss: 0.7 * loss, after),
    'present_after': present_after,
    'independent_updates': (pullback_after, pullback_of_other),
    'independent_present': (present_after, present_of_other),
  }
  # One step of rules for one batch, and two steps of rules for several.
  found = {
    name: _update(params, batch, name, axis_name) for name in _ON_DEVICES
  }
  rules = {
    'famo': weightings.famo(),
    'modo': weightings.modo(),
  }
  for name, rule in rules.items():
    balance = mimo_jax.balance(rule, objectives=_NAMES, axis_name=axis_name)
    state = balance.init(params)
    for _ in range(2):
      updates, state = balance.update(
        pullback, state, params, losses=losses, present=present, **extra_args
      )
    found[name] = updates, state.weights
  return found


@pytest.mark.slow
@pytest.mark.parametrize('way', ['pmap', 'shard_map', 'unchecked'])
def test_devices_average_over_the_rows_that_exist(way):
  update = shardable.on_devices(way, functools.partial(_updates, axis_name='d'))
  expected = jax.jit(_updates)(_PARAMS, _BATCH)
  checks.assert_close(update(_PARAMS, _BATCH), expected, rtol=1e-4, atol=1e-5)
