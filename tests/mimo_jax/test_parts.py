"""`weigh_on` and `shared`, alone and on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import parts
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.shardable import make_mesh


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
    checks.assert_refused(
      'weigh_on.*each number', parts.updated, rule, weigh_on=parts.is_encoder
    )


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
  shifts = 0.3 * jnp.arange(4.0)

  def mean_of_losses(params):
    each = [parts.named_losses_of(params, shift) for shift in shifts]
    return jax.tree.map(lambda *values: sum(values) / 4, *each)

  names = ['inverse lengths', 'mimo', 'sign agreement']
  rules = {name: three.RULES[name] for name in names}
  rules['moco'] = weightings.moco()
  if 'weigh_on' in options:  # which are refused
    del rules['sign agreement'], rules['moco']

  def step(losses_fn, axis_name=None):
    losses, pullback = jax.vjp(losses_fn, parts.PARAMS)
    found = {}
    for name, rule in rules.items():
      balance = mimo_jax.balance(
        rule, objectives=parts.OBJECTIVES, axis_name=axis_name, **options
      )
      found[name] = balance.update(
        pullback, balance.init(parts.PARAMS), parts.PARAMS, losses=losses
      )
    return found

  def on_device(shift):
    return step(lambda params: parts.named_losses_of(params, shift), 'd')

  expected = jax.jit(lambda: step(mean_of_losses))()
  checked = jax.shard_map(
    lambda shift: on_device(shift[0]),
    mesh=make_mesh((4,)),
    in_specs=jax.P('d'),
    out_specs=jax.P(),
  )
  checks.assert_close(jax.jit(checked)(shifts), expected, 1e-4, 1e-4)
  result = jax.device_get(jax.pmap(on_device, axis_name='d')(shifts))
  for device in range(4):
    checks.assert_close(checks.at(result, device), expected, 1e-4, 1e-4)


@pytest.mark.slow
def test_sharded_params_may_be_in_groups():
  mesh = make_mesh((4,))
  params = {'a': jnp.arange(8.0) - 3, 'b': jnp.linspace(-1, 1, 4)}
  batch = checks.standard_normal(8, 12)
  spec = jax.sharding.PartitionSpec('d')

  def losses_fn(params, batch):
    outputs = batch[:, :8] @ params['a'] * (1 + batch[:, 8:] @ params['b'])
    return {
      'fused': jnp.mean(outputs**2),
      'left': jnp.mean((outputs - 3.0) ** 2),
    }

  for options in (
    {'groups': lambda path: path[0]},
    {'weigh_on': lambda path: path[0] == 'b'},
  ):
    rule = three.RULES['inverse lengths']
    one = mimo_jax.balance(rule, objectives=('fused', 'left'), **options)
    many = mimo_jax.balance(
      rule, objectives=('fused', 'left'), axis_name='d', **options
    )

    def step(shards, state, batch, many=many):
      def of_shards(shards):
        whole = jax.tree.map(
          lambda leaf: jax.lax.all_gather(leaf, 'd', tiled=True), shards
        )
        return losses_fn(whole, batch)

      losses, pullback = jax.vjp(of_shards, shards)
      return many.update(pullback, state, shards, losses=losses)

    state = many.init(params)
    updates, new_state = jax.jit(
      jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(spec, jax.P(), spec),
        out_specs=(spec, jax.P()),
      )
    )(params, state, batch)

    @jax.jit
    def alone(params, one=one):
      losses, pullback = jax.vjp(lambda p: losses_fn(p, batch), params)
      return one.update(pullback, one.init(params), params, losses=losses)

    expected = alone(params)
    checks.assert_close((updates, new_state), expected, 1e-4, 1e-4)


# Wrong arguments.


def test_wrong_arguments_are_refused():
  refused = checks.assert_refused
  mgda = weightings.mgda()
  for name in ('groups', 'weigh_on', 'shared'):
    refused(f'{name}=.*a function', mimo_jax.balance, mgda, **{name: 'audio'})
  for one, other in ((1, '1'), (('a', 'b'), 'a/b'), (None, 'None')):
    refused(
      f'{other!r}; expected keys that differ',
      parts.updated,
      mgda,
      groups=lambda path, keys=(one, other): keys[path[0] == 'bias'],
    )
  refused(
    'weigh_on is true of no', parts.updated, mgda, weigh_on=lambda _: False
  )
  for rule in (mgda, mimo_jax.mimo()):
    for groups in (None, lambda path: path[0]):
      refused(
        r"no parameter takes the weights.*'encoders/audio'",
        parts.updated,
        rule,
        shared=lambda _: False,
        groups=groups,
      )
  refused(
    r"of the groups \['bias'\]",
    parts.updated,
    mgda,
    groups=lambda path: path[0],
    weigh_on=parts.is_encoder,
  )
  balance = mimo_jax.balance(mgda, groups=parts.group_of)
  losses, updates = parts.forms()
  losses['fused'] = losses.pop('joint')
  refused(
    'with the params',
    balance.update,
    updates['stacked'],
    balance.init(parts.PARAMS),
    losses=losses,
  )
