"""Many devices, one answer: that of a single device on the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

import mimo_jax

OBJECTIVES = ('fused', 'visual', 'audio')
RULES = {
  'mimo': mimo_jax.mimo(1.5, 0.8),
  'mgda': mimo_jax.weightings.mgda(),
  'modo': mimo_jax.weightings.modo(step_size=0.01),
  'moco': mimo_jax.weightings.moco(),
}
PARAMS = {
  'audio': jnp.array([0.9, -0.4, 1.3]),
  'visual': jnp.array([[0.2, -1.1], [0.7, 0.5]]),
  'bias': jnp.float32(0.3),
}
DEVICES = 8


def batches(key):
  """Three samples a device, of different means on different devices."""
  audio, visual = jax.random.split(key)
  drift = jnp.linspace(-1.0, 2.0, 24)[:, None]
  return {
    'audio': 0.4 * jax.random.normal(audio, (24, 3)) + drift,
    'visual': jax.random.normal(visual, (24, 2)) - 0.3 * drift,
  }


def losses_of(params, batch):
  audio = batch['audio'] @ params['audio']
  visual = jnp.sum(batch['visual'] @ params['visual'], axis=1)
  bias = params['bias']
  return {
    'fused': jnp.mean((audio - visual - 0.5) ** 2) + bias**2,
    'visual': jnp.mean((visual - 1.0) ** 2) + bias,
    'audio': 0.4 * jnp.mean((audio + 1.5) ** 2),
  }


def stacked(losses):
  return jnp.stack([losses[name] for name in OBJECTIVES])


def make_update(rule, axis_name, form='pullback', losses_fn=losses_of):
  """A function of params and batch: the updates and the weights."""
  optimizer = mimo_jax.balance(
    RULES[rule], objectives=OBJECTIVES, axis_name=axis_name
  )

  def update(params, batch):
    if form == 'pullback':
      losses, given = jax.vjp(lambda p: losses_fn(p, batch), params)
    elif form == 'mapping':
      losses, given = mimo_jax.value_and_jacobian(losses_fn)(params, batch)
    else:
      losses, given = mimo_jax.value_and_jacobian(
        lambda p: stacked(losses_fn(p, batch))
      )(params)
    updates, state = optimizer.update(
      given,
      optimizer.init(params),
      params,
      losses=losses,
      # Not independent, which is of no consequence here.
      independent_updates=(given, given),
    )
    return updates, state.weights

  return update


def make_mesh(shape=(DEVICES,), names=('d',)):
  return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def shard_mapped(update, batch, check_vma, mesh=None, axes='d'):
  """Replicated params, a sharded batch, and one result for all devices."""
  return jax.jit(
    jax.shard_map(
      update,
      mesh=mesh or make_mesh(),
      in_specs=(PartitionSpec(), PartitionSpec(axes)),
      out_specs=PartitionSpec(),
      check_vma=check_vma,
    )
  )(PARAMS, batch)


def divided(batch):
  return jax.tree.map(
    lambda leaf: leaf.reshape(DEVICES, -1, *leaf.shape[1:]), batch
  )


def assert_all_equal_and_first(outputs):
  """The output of the first device, which all others have to the bit."""
  for leaf in jax.tree.leaves(outputs):
    assert leaf.shape[0] == DEVICES
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  return jax.tree.map(lambda leaf: leaf[0], outputs)


def with_pmap(update, batch):
  outputs = jax.pmap(update, axis_name='d', in_axes=(None, 0))(
    PARAMS, divided(batch)
  )
  return assert_all_equal_and_first(outputs)


def with_vmap(update, batch):
  outputs = jax.jit(jax.vmap(update, axis_name='d', in_axes=(None, 0)))(
    PARAMS, divided(batch)
  )
  return assert_all_equal_and_first(outputs)


WAYS = {
  'pmap': with_pmap,
  'vmap': with_vmap,
  'shard_map': functools.partial(shard_mapped, check_vma=True),
  'shard_map unchecked': functools.partial(shard_mapped, check_vma=False),
}
each_way = pytest.mark.parametrize('way', WAYS)
each_rule = pytest.mark.parametrize('rule', RULES)
each_form = pytest.mark.parametrize('form', ['pullback', 'mapping', 'stacked'])
either_form = pytest.mark.parametrize('form', ['pullback', 'mapping'])


def alone(rule, batch, form='pullback'):
  """The single device on the whole batch."""
  return jax.jit(make_update(rule, None, form))(PARAMS, batch)


def assert_close(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    scale = np.max(np.abs(other))
    assert scale > 1e-3
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * max(1, scale))


def test_there_are_devices_to_test_on():
  assert jax.device_count() == DEVICES


@each_way
@each_rule
@each_form
def test_update_is_that_of_one_device_on_the_whole_batch(way, rule, form, key):
  batch = batches(key)
  update = make_update(rule, 'd', form)
  assert_close(WAYS[way](update, batch), alone(rule, batch, form))


@each_way
@each_rule
@either_form
def test_losses_averaged_by_the_user_give_the_same_update(way, rule, form, key):
  batch = batches(key)

  def averaged(params, batch):
    return lax.pmean(losses_of(params, batch), 'd')

  update = make_update(rule, 'd', form, averaged)
  assert_close(WAYS[way](update, batch), alone(rule, batch))


@each_rule
@either_form
def test_averaged_losses_need_no_axis_name_where_jax_checks_it(rule, form, key):
  batch = batches(key)

  def averaged(params, batch):
    return lax.pmean(losses_of(params, batch), 'd')

  update = make_update(rule, None, form, averaged)
  assert_close(shard_mapped(update, batch, True), alone(rule, batch))


@each_rule
@either_form
def test_params_marked_as_varying_give_the_same_update(rule, form, key):
  batch = batches(key)
  update = make_update(rule, 'd', form)

  def varying(params, batch):
    return update(lax.pcast(params, 'd', to='varying'), batch)

  assert_close(shard_mapped(varying, batch, True), alone(rule, batch))


@pytest.mark.parametrize('check_vma', [True, False])
@each_rule
@either_form
def test_update_is_averaged_over_all_axes_of_a_mesh(check_vma, rule, form, key):
  batch = batches(key)
  update = make_update(rule, ('d', 'e'), form)
  mesh = make_mesh((4, 2), ('d', 'e'))
  actual = shard_mapped(update, batch, check_vma, mesh, ('d', 'e'))
  assert_close(actual, alone(rule, batch))


@each_rule
def test_axes_over_which_nothing_varies_change_nothing(rule, key):
  batch = batches(key)
  update = make_update(rule, ('d', 'e'))
  mesh = make_mesh((4, 2), ('d', 'e'))
  actual = shard_mapped(update, batch, True, mesh, 'd')
  assert_close(actual, alone(rule, batch))


@each_rule
@each_form
def test_a_forgotten_axis_name_is_an_error(rule, form, key):
  batch = batches(key)
  with pytest.raises(ValueError, match=r"axes \['d'\].*axis_name=None.*'d'"):
    shard_mapped(make_update(rule, None, form), batch, True)


@each_rule
def test_a_forgotten_axis_of_two_is_an_error(rule, key):
  mesh = make_mesh((4, 2), ('d', 'e'))
  with pytest.raises(ValueError, match=r"\['e'\].*axis_name='d'.*\('d', 'e'\)"):
    shard_mapped(make_update(rule, 'd'), batches(key), True, mesh, ('d', 'e'))


@each_rule
@either_form
def test_jit_with_a_sharded_batch_needs_no_axis_name(rule, form, key):
  batch, mesh = batches(key), make_mesh()
  params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
  sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('d')))
  actual = jax.jit(make_update(rule, None, form))(params, sharded)
  assert_close(actual, alone(rule, batch))


@each_way
@each_rule
def test_one_bad_device_spoils_the_step_on_all(way, rule, key):
  batch = batches(key)
  batch['audio'] = batch['audio'].at[17, 1].set(jnp.nan)
  updates, weights = WAYS[way](make_update(rule, 'd'), batch)
  for leaf in jax.tree.leaves(updates):
    assert np.all(np.isnan(leaf))
  np.testing.assert_array_equal(weights, np.zeros(3))
