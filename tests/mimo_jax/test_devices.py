"""On many devices the update is that of one device on the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

import mimo_jax
from tests import checks
from tests.mimo_jax import shardable as sharded

RULES = {
  'mimo': mimo_jax.mimo(1.5, 0.8),
  'mgda': mimo_jax.weightings.mgda(),
  'modo': mimo_jax.weightings.modo(step_size=0.01),
  'moco': mimo_jax.weightings.moco(),
}
PARAMS, BATCH = sharded.PARAMS, sharded.BATCH
OBJECTIVES = sharded.OBJECTIVES
PULLBACKS = tuple((rule, 'pullback') for rule in RULES)
# Averaging does not depend on the rule, so rules that tell rows apart suffice.
FEW = (*PULLBACKS, ('moco', 'mapping'))
ALL = (
  *PULLBACKS,
  ('mimo', 'mapping'),
  ('modo', 'mapping'),
  ('moco', 'stacked'),
)


def averaged_losses_of(params, batch):
  return lax.pmean(sharded.losses_of(params, batch), 'd')


def updates_of(
  axis_name, cases=PULLBACKS, losses_fn=sharded.losses_of, param_specs=None
):
  """Makes a function: params, batch -> (rule, form) -> updates and weights."""

  def given_of(form, params, batch):
    if form == 'pullback':
      return jax.vjp(lambda p: losses_fn(p, batch), params)
    if form == 'mapping':
      return mimo_jax.value_and_jacobian(losses_fn)(params, batch)

    def stacked(params):
      losses = losses_fn(params, batch)
      return jnp.stack([losses[name] for name in OBJECTIVES])

    return mimo_jax.value_and_jacobian(stacked)(params)

  def update(params, batch):
    results = {}
    for rule, form in cases:
      optimizer = mimo_jax.balance(
        RULES[rule],
        objectives=OBJECTIVES,
        axis_name=axis_name,
        param_specs=param_specs,
      )
      losses, given = given_of(form, params, batch)
      updates, state = optimizer.update(
        given,
        optimizer.init(params),
        params,
        losses=losses,
        # Not independent, which does not matter here.
        independent_updates=(given, given),
      )
      results[rule, form] = updates, state.weights
    return results

  return update


@functools.cache
def alone():
  """The results of a single device on the whole batch."""
  return jax.jit(updates_of(None))(PARAMS, BATCH)


def assert_those_of_one_device(results, name):
  for (rule, form), actual in results.items():
    expected = alone()[rule, 'pullback']
    for one, other in zip(
      jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
      scale = np.max(np.abs(other))
      assert scale > 1e-3
      np.testing.assert_allclose(
        one,
        other,
        rtol=0,
        atol=2e-6 * max(1, scale),
        err_msg=f'{name}, {rule}, {form}',
      )


def assert_step_of_all(way, kinds):
  """Checks the update on all devices; a bad device makes all updates NaN."""

  def update(params, batch):
    return {kind: update(params, batch) for kind, update in kinds.items()}

  run = sharded.on_devices(way, update)
  for kind, results in run(PARAMS, BATCH).items():
    assert_those_of_one_device(results, f'{way}, {kind}')
  bad = BATCH.at[17, 1].set(np.nan)
  for kind, results in run(PARAMS, bad).items():
    for name, (updates, weights) in results.items():
      assert np.all(np.isnan(checks.flat(updates))), (way, kind, name)
      np.testing.assert_array_equal(weights, np.zeros(3))


def test_pmap_and_vmap_give_the_update_of_the_whole_batch():
  assert jax.device_count() == sharded.DEVICES
  assert_step_of_all('vmap', {'own': updates_of('d', PULLBACKS[:2])})


@pytest.mark.slow
@pytest.mark.parametrize('way', sharded.WAYS)
def test_shard_map_gives_the_update_of_the_whole_batch(way):
  kinds = {
    'own losses': updates_of('d', ALL),
    'averaged losses': updates_of('d', FEW, averaged_losses_of),
  }
  if way == 'shard_map':
    # Here JAX knows which values vary between devices.
    kinds['averaged losses, no axis_name'] = updates_of(
      None, FEW, averaged_losses_of
    )
    own = updates_of('d', FEW, param_specs=PartitionSpec())
    kinds['params marked as varying'] = lambda params, batch: own(
      lax.pcast(params, 'd', to='varying'), batch
    )
  assert_step_of_all(way, kinds)


@pytest.mark.slow
@pytest.mark.parametrize('way', ['shard_map', 'unchecked'])
def test_update_is_averaged_over_all_axes_of_a_mesh(way):
  mesh, axes = sharded.make_mesh((4, 2), ('d', 'e')), ('d', 'e')
  update = sharded.on_devices(way, updates_of(axes, FEW), mesh, axes)
  assert_those_of_one_device(update(PARAMS, BATCH), 'two axes')
  if way == 'shard_map':
    # Nothing varies over the other axis, so averaging over it changes nothing.
    update = sharded.on_devices(way, updates_of(axes, PULLBACKS[:2]), mesh)
    assert_those_of_one_device(update(PARAMS, BATCH), 'one of two axes')


@pytest.mark.slow
def test_jit_with_a_sharded_batch_needs_no_axis_name():
  mesh = sharded.make_mesh()
  params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
  batch = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec('d')))
  update = updates_of(None, FEW)
  assert_those_of_one_device(jax.jit(update)(params, batch), 'jit')


def test_a_missing_axis_name_is_an_error():
  for case in ALL:
    with pytest.raises(ValueError, match=r"axes \['d'\].*axis_name=None.*'d'"):
      jax.eval_shape(
        sharded.on_devices('shard_map', updates_of(None, (case,))),
        PARAMS,
        BATCH,
      )
  mesh = sharded.make_mesh((4, 2), ('d', 'e'))
  for case in PULLBACKS:
    with pytest.raises(
      ValueError, match=r"\['e'\].*axis_name='d'.*\('d', 'e'\)"
    ):
      jax.eval_shape(
        sharded.on_devices(
          'shard_map', updates_of('d', (case,)), mesh, ('d', 'e')
        ),
        PARAMS,
        BATCH,
      )
