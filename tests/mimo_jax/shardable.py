"""Losses of parameters and a batch on eight devices, and ways to run there."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests import checks

DEVICES = 8
# The last is `jax.shard_map` without its check of what is replicated.
WAYS = ('vmap', 'pmap', 'shard_map', 'unchecked')
OBJECTIVES = ('fused', 'visual', 'audio')
PARAMS = {
  'w': jax.device_put(checks.standard_normal(16, 2)),
  'bias': jnp.array([0.3, -0.8]),
}
# Three rows for each device; their mean differs between devices.
BATCH = jnp.asarray(
  checks.standard_normal(24, 16, seed=1) + np.linspace(-1, 2, 24)[:, None],
  jnp.float32,
)


def same(values):
  return values


def losses_of(params, batch, cut=same, gather=same):
  kernel = gather(params['w'])
  features = cut(jnp.tanh(batch @ kernel + params['bias'][None, :]))
  audio, visual = features[:, 0], features[:, 1]
  return {
    'audio': 0.4 * jnp.mean((audio + 1.5) ** 2),
    'fused': jnp.mean((audio - visual - 0.5) ** 2),
    'visual': jnp.mean((visual - 1.0) ** 2),
  }


def make_mesh(shape=(DEVICES,), names=('d',), axis_type=AxisType.Auto):
  return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))


def on_devices(way, update, mesh=None, axes='d'):
  """Makes `update(params, batch)` split its batch over the devices.

  All of them must have the same result, which is returned once.
  """
  if way in ('shard_map', 'unchecked'):
    mapped = jax.shard_map(
      update,
      mesh=mesh or make_mesh(),
      in_specs=(P(), P(axes)),
      out_specs=P(),
      check_vma=way == 'shard_map',
    )
    return jax.jit(mapped)
  transform = jax.pmap if way == 'pmap' else jax.vmap
  mapped = transform(update, axis_name='d', in_axes=(None, 0))
  mapped = mapped if way == 'pmap' else jax.jit(mapped)

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
