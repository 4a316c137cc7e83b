"""An objective without rows has no weight and changes nothing for the others.

Rules for losses know it only from `present`; rules for gradients also see zero
gradients (`test_absent.py`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives

_NAMES = ('fused', 'audio', 'visual')
_ABSENT, _STEPS = 1, 9
_RULES = {
  'constant': lambda _: weightings.constant(0.7),
  'cosmos': lambda size: weightings.cosmos(0.6, jnp.linspace(1, 2, 3)[:size]),
  'dwa': lambda _: weightings.dwa(steps_per_epoch=2),
  'famo': lambda _: weightings.famo(),
  'fused_only': lambda _: weightings.fused_only(),
  'geometric_mean': lambda _: weightings.geometric_mean(),
  'imtl_l': lambda _: weightings.imtl_l(),
  'mean': lambda _: weightings.mean(),
  'mimo': lambda _: weightings.mimo(2.0, 0.5),
  'pbi': lambda _: weightings.pbi(),
  'stch': lambda size: weightings.stch(0.3, jnp.ones(size)),
  'sum': lambda _: weightings.sum(),
  'uw': lambda _: weightings.uw(),
}


def test_all_rules_for_losses_are_tested_here():
  named = {
    name
    for name in weightings.__all__
    if getattr(weightings, name)().needs in ('losses', 'losses_after')
  }
  assert named == {*_RULES, 'random'}


@functools.cache
def _made(name, size=3):
  """Returns a rule for that many objectives, compiled once for all tests."""
  rule = weightings.random() if name == 'random' else _RULES[name](size)
  return rule._replace(update=jax.jit(rule.update))


def _run(rule, present, kept=(0, 1, 2), absent_loss=0.0):
  """Returns weights and states of all steps for the objectives kept."""
  random, kept = np.random.RandomState(3), np.array(kept)
  before, weights, states = np.ones(3, np.float32), [], []
  state = rule.init(len(kept))
  for step in range(_STEPS):
    losses = (1.5 + np.arange(3)) * random.uniform(0.5, 1.0, 3) * 0.9**step
    rows = np.float32([4.0, 0.0 if not present(step) else 2.0, 3.0])
    losses = np.where(rows > 0, losses, absent_loss).astype(np.float32)
    each, state = rule.update(
      mimo_jax.Observation(
        losses[kept],
        losses_after=np.float32(0.9) * before[kept],
        rows=rows[kept],
      ),
      state,
    )
    before = losses
    weights.append(each)
    states.append(state)
  return np.stack(weights), states


@pytest.mark.parametrize('name', _RULES)
def test_an_objective_that_is_always_absent_might_as_well_not_exist(name):
  # Preferences are by position, so the last objective is the absent one.
  weights, states = _run(_made(name), lambda _: False, (0, 2, 1))
  without, _ = _run(_made(name, 2), lambda _: True, (0, 2))
  np.testing.assert_array_equal(weights[:, 2], 0)
  factor = np.sum(weights[:, :2] * without) / np.sum(without**2)
  # A mean over all objectives divides by K, absent ones included.
  expected = 2 / 3 if name in ('geometric_mean', 'mean') else 1
  assert factor == pytest.approx(expected, abs=1e-5)
  np.testing.assert_allclose(weights[:, :2], factor * without, rtol=1e-4)
  start = jax.tree.leaves(_made(name).init(3))
  for leaf, first in zip(jax.tree.leaves(states[-1]), start, strict=True):
    if leaf.shape[:1] == (3,) and leaf.dtype != bool:
      np.testing.assert_array_equal(leaf[2], first[2])


@pytest.mark.slow
@pytest.mark.parametrize('name', [*_RULES, 'random'])
def test_nothing_is_learned_from_absent_objectives(name):
  rule = _made(name)
  absent = np.arange(_STEPS) % 3 == 1
  weights, _ = _run(rule, lambda step: not absent[step])
  np.testing.assert_array_equal(weights[absent, _ABSENT], 0)
  assert np.all(np.isfinite(weights))
  assert np.all(weights[absent][:, [0, 2]].any(1))
  if name in ('random', 'famo'):
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
  assert name == 'fused_only' or np.all(weights[~absent, _ABSENT])
  others, _ = _run(rule, lambda step: not absent[step], absent_loss=7.0)
  np.testing.assert_array_equal(weights, others)


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
    checks.assert_refused(
      f'present must have .*{message}.*present_rows',
      balance.update,
      pullback,
      state,
      losses=losses,
      present=present,
    )


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


@functools.cache
def _alone():
  """The results of a single device on the whole batch."""
  return jax.jit(_updates)(_PARAMS, _BATCH)


@pytest.mark.slow
@pytest.mark.parametrize('where', ['pmap', 'shard_map', 'unchecked'])
def test_devices_average_over_the_rows_that_exist(where):
  update = functools.partial(_updates, axis_name='d')
  if where == 'pmap':
    batches = jax.tree.map(lambda x: x.reshape(8, 3, *x.shape[1:]), _BATCH)
    actual = checks.at(
      jax.pmap(update, axis_name='d', in_axes=(None, 0))(_PARAMS, batches), 5
    )
  else:
    mesh = jax.make_mesh((8,), ('d',), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
      update,
      mesh=mesh,
      in_specs=(P(), P('d')),
      out_specs=P(),
      check_vma=where == 'shard_map',
    )
    actual = jax.jit(mapped)(_PARAMS, _BATCH)
  checks.assert_close(actual, _alone(), rtol=1e-4, atol=1e-5)
