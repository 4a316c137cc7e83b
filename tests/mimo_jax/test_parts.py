"""`groups`, `weigh_on` and `shared`, alone and on devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import parts
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.shardable import on_devices

# Groups.


@parts.each_form
@pytest.mark.parametrize('rule', ['inverse lengths', 'mgda', 'sign agreement'])
def test_each_group_has_its_own_weights(rule, form):
  updates, state = parts.updated(three.RULES[rule], form, groups=parts.group_of)
  for name, places in parts.GROUPS.items():
    found = parts.leaves(updates, places)
    expected = parts.by_hand(three.RULES[rule], places)
    checks.assert_close(found, expected, 1e-4, 1e-5, name)
  assert list(state.weights) == sorted(parts.GROUPS)
  if rule == 'sign agreement':  # each number of the gradients has weights
    return
  for name, places in parts.GROUPS.items():
    expected = parts.weights_on(three.RULES[rule], places)
    checks.assert_close(state.weights[name], expected, 1e-4, 1e-5)
  together = parts.weights_on(three.RULES[rule], (0, 1, 2))
  assert np.abs(together - state.weights['audio']).max() > 1e-2


def test_a_rule_for_losses_is_asked_once_and_weights_all_groups_alike():
  rule = three.RULES['scheduled mimo']
  updates, state = parts.updated(rule, groups=parts.group_of)
  expected, without = parts.updated(rule)
  checks.assert_close(updates, expected)
  assert list(state.weights) == sorted(parts.GROUPS)
  for weights in state.weights.values():
    checks.assert_close(weights, without.weights)
  checks.assert_close(state.weighting, without.weighting)


def test_names_of_groups_are_their_keys_as_strings():
  keys = {'bias': None, 'audio': 3, 'visual': ('a', 'b')}

  def names(groups):
    balance = mimo_jax.balance(
      weightings.mgda(), objectives=parts.OBJECTIVES, groups=groups
    )
    return ' '.join(balance.init(parts.PARAMS).weights)

  assert names(lambda path: keys[path[min(1, len(path) - 1)]]) == '3 None a/b'
  assert names(lambda path: path) == 'bias encoders/audio encoders/visual/0'


def test_a_group_that_is_not_finite_stops_all_groups():
  balance = mimo_jax.balance(
    weightings.cr_mogm(), objectives=parts.OBJECTIVES, groups=parts.group_of
  )

  @jax.jit
  def step(state, added):
    losses, forms = parts.forms()
    rows = forms['mapping']
    rows['audio']['bias'] += added
    return balance.update(rows, state, parts.PARAMS, losses=losses)

  _, state = step(balance.init(parts.PARAMS), 0.0)
  new, after = step(state, np.nan)
  checks.assert_equal(after, state)
  for leaf in jax.tree.leaves(new):
    assert np.all(np.isnan(leaf))


def test_weigh_on_may_select_parts_of_groups():
  def half(path):
    return path != ('encoders', 'audio')

  updates, state = parts.updated(
    three.RULES['mgda'], groups=lambda path: path[0], weigh_on=half
  )
  for name, places in {'bias': (0,), 'encoders': (2,)}.items():
    weights = parts.weights_on(three.RULES['mgda'], places)
    checks.assert_close(state.weights[name], weights, 1e-4, 1e-5)
  expected = np.asarray(weights) @ parts.flattened(parts.gradients(), [1])
  checks.assert_close(parts.leaves(updates, [1])[0], expected, 1e-4, 1e-5)


# Parameters that weigh.


@parts.each_form
def test_weights_from_a_part_apply_to_all(form):
  for places, weigh_on in (
    ((1, 2), parts.is_encoder),
    ((0,), lambda p: p == ('bias',)),
  ):
    for name in ('mgda', 'inverse lengths'):
      rule = three.RULES[name]
      updates, state = parts.updated(rule, form, weigh_on=weigh_on)
      weights = np.asarray(parts.weights_on(rule, places))
      checks.assert_close(state.weights, weights, 1e-4)
      expected = jax.tree.map(
        lambda *rows, w=weights: np.tensordot(w, np.stack(rows), 1),
        *parts.gradients(),
      )
      checks.assert_close(updates, expected, 1e-4, 1e-5, name)


def test_rules_with_weights_for_each_number_refuse_weigh_on():
  for rule in (three.RULES['sign agreement'], weightings.moco()):
    with pytest.raises(ValueError, match=r'weigh_on.*each number'):
      parts.updated(rule, weigh_on=parts.is_encoder)


@pytest.mark.slow
def test_backward_passes_end_at_parameters_that_the_rule_sees():
  """For 5 layers and 3 objectives: 3 passes of one layer, and one of all."""
  joint = parts.operations(weightings.fused_only())
  full = parts.operations(weightings.mgda())
  part = parts.operations(
    weightings.mgda(), weigh_on=lambda path: path[0] == 'last'
  )
  assert full > 1.8 * joint
  assert part < 1.15 * joint


# Parameters of a single objective.


@pytest.mark.parametrize('rule', ['mgda', 'constant', 'sign agreement'])
@pytest.mark.parametrize('form', ['pullback', 'stacked'])
def test_unshared_parameters_take_their_plain_gradient(rule, form):
  rule = three.RULES[rule]
  updates, _ = parts.updated(rule, form, shared=parts.is_encoder)
  total = sum(parts.leaves(gradient, [0])[0] for gradient in parts.gradients())
  checks.assert_close(updates['bias'], total, 1e-5)
  checks.assert_close(
    parts.leaves(updates, [1, 2]), parts.by_hand(rule, (1, 2)), 1e-4, 1e-5
  )


def test_if_a_part_is_not_finite_the_whole_update_is_not_finite():
  for name in ('mimo', 'mgda'):
    balance = mimo_jax.balance(
      three.RULES[name], objectives=parts.OBJECTIVES, shared=parts.is_encoder
    )

    @jax.jit
    def update(params, balance=balance):
      losses, updates = parts.forms(params)
      losses['audio'] = jnp.float32(np.nan)
      return balance.update(
        updates['stacked'], balance.init(params), params, losses=losses
      )

    new, _ = update(parts.PARAMS)
    assert np.isnan(new['bias']), name


# Devices.


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    {'groups': parts.group_of},
    {'weigh_on': parts.is_encoder},
    {'groups': parts.group_of, 'shared': parts.is_encoder},
  ],
  ids=['groups', 'weigh_on', 'shared'],
)
def test_devices_average_before_parts_are_weighted(options):
  shifts = 0.15 * jnp.arange(8.0)

  def mean_of_losses(params, shifts):
    each = jax.vmap(lambda shift: parts.named_losses_of(params, shift))(shifts)
    return jax.tree.map(jnp.mean, each)

  names = ['inverse lengths', 'mimo', 'sign agreement']
  rules = {name: three.RULES[name] for name in names}
  rules['moco'] = weightings.moco()
  if 'weigh_on' in options:  # which are refused
    del rules['sign agreement'], rules['moco']

  def step(params, shifts, axis_name=None):
    losses, pullback = jax.vjp(lambda p: mean_of_losses(p, shifts), params)
    found = {}
    for name, rule in rules.items():
      balance = mimo_jax.balance(
        rule, objectives=parts.OBJECTIVES, axis_name=axis_name, **options
      )
      found[name] = balance.update(
        pullback, balance.init(params), params, losses=losses
      )
    return found

  expected = jax.jit(step)(parts.PARAMS, shifts)
  for way in ('shard_map', 'pmap'):
    update = on_devices(way, functools.partial(step, axis_name='d'))
    checks.assert_close(update(parts.PARAMS, shifts), expected, 1e-4, 1e-4)


# Wrong arguments.


def test_wrong_arguments_are_refused():
  mgda = weightings.mgda()
  for name in ('groups', 'weigh_on', 'shared'):
    with pytest.raises(ValueError, match=f'{name}=.*a function'):
      mimo_jax.balance(mgda, **{name: 'audio'})
  for one, other in ((1, '1'), (('a', 'b'), 'a/b'), (None, 'None')):
    with pytest.raises(
      ValueError, match=f'{other!r}; expected keys that differ'
    ):
      parts.updated(
        mgda, groups=lambda path, keys=(one, other): keys[path[0] == 'bias']
      )
  with pytest.raises(ValueError, match='weigh_on is true of no'):
    parts.updated(mgda, weigh_on=lambda _: False)
  for rule in (mgda, mimo_jax.mimo()):
    for groups in (None, lambda path: path[0]):
      with pytest.raises(
        ValueError, match=r"no parameter takes the weights.*'encoders/audio'"
      ):
        parts.updated(rule, shared=lambda _: False, groups=groups)
  with pytest.raises(ValueError, match=r"of the groups \['bias'\]"):
    parts.updated(mgda, groups=lambda path: path[0], weigh_on=parts.is_encoder)
  balance = mimo_jax.balance(mgda, groups=parts.group_of)
  losses, updates = parts.forms()
  losses['fused'] = losses.pop('joint')
  with pytest.raises(ValueError, match='with the params'):
    balance.update(
      updates['stacked'], balance.init(parts.PARAMS), losses=losses
    )
