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
from tests.mimo_jax.shardable import make_mesh

OBJECTIVES = ('fused', 'visual', 'audio')
RULES = {
  'mimo': mimo_jax.mimo(1.5, 0.8),
  'mgda': mimo_jax.weightings.mgda(),
  'modo': mimo_jax.weightings.modo(step_size=0.01),
  'moco': mimo_jax.weightings.moco(),
}
PULLBACKS = tuple((rule, 'pullback') for rule in RULES)
# Averaging does not depend on the rule, so rules that tell rows apart suffice.
FEW = (*PULLBACKS, ('moco', 'mapping'))
ALL = (
  *PULLBACKS,
  ('mimo', 'mapping'),
  ('modo', 'mapping'),
  ('moco', 'stacked'),
)
PARAMS = {
  'audio': jnp.array([0.9, -0.4, 1.3]),
  'visual': jnp.array([[0.2, -1.1], [0.7, 0.5]]),
  'bias': jnp.float32(0.3),
}
DEVICES = 8
# Three samples for each device; their mean differs between devices.
DRIFT = np.linspace(-1.0, 2.0, 24, dtype=np.float32)[:, None]
BATCH = {
  'audio': 0.4 * checks.standard_normal(24, 3) + DRIFT,
  'visual': checks.standard_normal(24, 2, seed=1) - 0.3 * DRIFT,
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


def averaged_losses_of(params, batch):
  return lax.pmean(losses_of(params, batch), 'd')


def updates_of(
  axis_name, cases=PULLBACKS, losses_fn=losses_of, param_specs=None
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


# Ways of running on many devices.


def shard_mapped(update, check_vma=True, mesh=None, axes='d'):
  """Runs shard_map: params replicated, batch sharded, one result for all."""
  return jax.jit(
    jax.shard_map(
      update,
      mesh=mesh or make_mesh(),
      in_specs=(PartitionSpec(), PartitionSpec(axes)),
      out_specs=PartitionSpec(),
      check_vma=check_vma,
    )
  )


def over_shards(transformation, update):
  """Runs pmap or vmap; checks that all devices have the same result."""
  mapped = transformation(update, axis_name='d', in_axes=(None, 0))

  def run(params, batch):
    shards = jax.tree.map(
      lambda leaf: leaf.reshape(DEVICES, -1, *leaf.shape[1:]), batch
    )
    # To the host at once: an operation between two programs of many devices may
    # wait forever for a thread that the other one holds.
    outputs = jax.device_get(mapped(params, shards))
    for leaf in jax.tree.leaves(outputs):
      assert leaf.shape[0] == DEVICES
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    return checks.at(outputs, 0)

  return run


WAYS = {
  'vmap': functools.partial(
    over_shards, lambda *args, **options: jax.jit(jax.vmap(*args, **options))
  ),
  'pmap': functools.partial(over_shards, jax.pmap),
  'shard_map': shard_mapped,
  'shard_map unchecked': functools.partial(shard_mapped, check_vma=False),
}


def assert_step_of_all(way, kinds):
  """Checks the update on all devices; a bad device makes all updates NaN."""

  def update(params, batch):
    return {kind: update(params, batch) for kind, update in kinds.items()}

  run = WAYS[way](update)
  for kind, results in run(PARAMS, BATCH).items():
    assert_those_of_one_device(results, f'{way}, {kind}')
  bad = BATCH | {'audio': BATCH['audio'].copy()}
  bad['audio'][17, 1] = np.nan
  for kind, results in run(PARAMS, bad).items():
    for name, (updates, weights) in results.items():
      assert np.all(np.isnan(checks.flat(updates))), (way, kind, name)
      np.testing.assert_array_equal(weights, np.zeros(3))


def test_pmap_and_vmap_give_the_update_of_the_whole_batch():
  assert jax.device_count() == DEVICES
  assert_step_of_all('vmap', {'own': updates_of('d', PULLBACKS[:2])})


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
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
@pytest.mark.parametrize('check_vma', [True, False])
def test_update_is_averaged_over_all_axes_of_a_mesh(check_vma):
  mesh, axes = make_mesh((4, 2), ('d', 'e')), ('d', 'e')
  update = updates_of(axes, FEW)
  results = shard_mapped(update, check_vma, mesh, axes)(PARAMS, BATCH)
  assert_those_of_one_device(results, 'two axes')
  if check_vma:
    # Nothing varies over the other axis, so averaging over it changes nothing.
    results = shard_mapped(updates_of(axes, PULLBACKS[:2]), True, mesh, 'd')(
      PARAMS, BATCH
    )
    assert_those_of_one_device(results, 'one of two axes')


@pytest.mark.slow
def test_jit_with_a_sharded_batch_needs_no_axis_name():
  mesh = make_mesh()
  params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
  batch = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec('d')))
  update = updates_of(None, FEW)
  assert_those_of_one_device(jax.jit(update)(params, batch), 'jit')


def test_a_missing_axis_name_is_an_error():
  for case in ALL:
    checks.assert_refused(
      r"axes \['d'\].*axis_name=None.*'d'",
      jax.eval_shape,
      shard_mapped(updates_of(None, (case,))),
      PARAMS,
      BATCH,
    )
  mesh = make_mesh((4, 2), ('d', 'e'))
  for case in PULLBACKS:
    checks.assert_refused(
      r"\['e'\].*axis_name='d'.*\('d', 'e'\)",
      jax.eval_shape,
      shard_mapped(updates_of('d', (case,)), True, mesh, ('d', 'e')),
      PARAMS,
      BATCH,
    )
