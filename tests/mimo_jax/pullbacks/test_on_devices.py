"""Pullbacks that know their Gramian give the same on many devices as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import mimo_jax
from tests import checks
from tests.mimo_jax import three_objectives
from tests.mimo_jax.shardable import BATCH
from tests.mimo_jax.shardable import losses_of
from tests.mimo_jax.shardable import make_mesh
from tests.mimo_jax.shardable import OBJECTIVES
from tests.mimo_jax.shardable import on_devices
from tests.mimo_jax.shardable import PARAMS
from tests.mimo_jax.shardable import same

pytestmark = pytest.mark.slow
_RULE = three_objectives.products()


def _update(params, batch, how, gather=same, **options):
  balance = mimo_jax.balance(_RULE, objectives=OBJECTIVES, **options)

  def losses_fn(params, cut=same):
    return losses_of(params, batch, cut, gather)

  if how == 'features':
    losses, pullback = mimo_jax.vjp_at_features(losses_fn, params)
  elif how == 'two passes':
    losses, pullback = jax.vjp(losses_fn, params)
    pullback = mimo_jax.two_passes(pullback, batch_size=2)
  else:
    # Loss i of all devices together is one objective.
    def loss_fn(params, index):
      losses = losses_fn(params)
      return jnp.stack([losses[name] for name in OBJECTIVES])[index]

    losses, pullback = mimo_jax.vjp_of_examples(
      loss_fn, params, jnp.arange(3), batch_size=2
    )
  updates, state = balance.update(
    pullback, balance.init(params), params, losses=losses
  )
  return updates, state.weights


@functools.cache
def _expected(how):
  return jax.jit(functools.partial(_update, how=how))(PARAMS, BATCH)


def _on_devices(how, where):
  mesh, update = make_mesh(), functools.partial(_update, how=how)
  if where == 'jit':
    batch = jax.device_put(BATCH, jax.NamedSharding(mesh, P('d')))
    return jax.jit(update)(PARAMS, batch)
  update = functools.partial(update, axis_name='d')
  if where != 'shards':
    return on_devices(where, update)(PARAMS, BATCH)
  specs = {'w': P('d'), 'bias': P()}
  return jax.jit(
    jax.shard_map(
      functools.partial(
        update,
        gather=lambda w: lax.all_gather(w, 'd', tiled=True),
        param_specs=specs,
      ),
      mesh=mesh,
      in_specs=(specs, P('d')),
      out_specs=(specs, P()),
      check_vma=False,
    )
  )(PARAMS, BATCH)


@pytest.mark.parametrize(
  'where', ['pmap', 'jit', 'shard_map', 'unchecked', 'shards']
)
@pytest.mark.parametrize('how', ['features', 'two passes', 'examples'])
def test_the_update_is_that_of_one_device(how, where):
  expected = _expected(how)
  assert np.min(np.abs(expected[1])) > 1e-2
  checks.assert_close(_on_devices(how, where), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('how', ['features', 'two passes'])
def test_batches_may_be_sharded_on_an_explicit_mesh(how):
  mesh = make_mesh(axis_type=AxisType.Explicit)
  with jax.set_mesh(mesh):
    params = jax.device_put(PARAMS, P())
    batch = jax.device_put(BATCH, P('d', None))
    actual = jax.jit(functools.partial(_update, how=how))(params, batch)
  checks.assert_close(actual, _expected(how), rtol=1e-4, atol=1e-5)
