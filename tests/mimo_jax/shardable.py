"""Losses of parameters and a batch that can be sharded over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from tests import checks

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


def make_mesh(shape=(8,), names=('d',), axis_type=AxisType.Auto):
  return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))
