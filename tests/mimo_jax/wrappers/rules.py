"""Rules of every kind to wrap, and their first step."""

import jax
import jax.numpy as jnp
import numpy as np

import mimo_jax
from mimo_jax import weightings
from tests import jacobians

ROWS = jacobians.generic(3, 5)
LOSSES = jnp.array([0.3, 0.9, 0.5])
RULES = {
  'losses': mimo_jax.mimo(3.0, 0.7),
  'gramian': weightings.nash_mtl(),
  'negative': weightings.constant([0.5, 2.0, -1.0]),
  'coordinates': weightings.graddrop(leak=0.2),
  'direction': weightings.moco(),
}


def observe(rows=ROWS):
  rows = jnp.asarray(rows, jnp.float32)
  losses = LOSSES[: len(rows)]
  return mimo_jax.Observation(losses, rows @ rows.T, {'w': rows})


def first_step(rule, rows=ROWS):
  state = rule.init(len(rows), {'w': jnp.zeros(rows.shape[1])})
  return jax.jit(rule.update)(observe(rows), state)


def direction_of(weights, rows=ROWS):
  """Returns the direction of weights of any kind."""
  if isinstance(weights, mimo_jax.Direction):
    return np.asarray(weights.updates['w'])
  full = weights['w'] if isinstance(weights, dict) else weights[:, None]
  return np.sum(np.asarray(full) * rows, axis=0)


def each(weights):
  """Returns one weight for each objective."""
  if isinstance(weights, mimo_jax.Direction):
    return np.asarray(weights.weights)
  if isinstance(weights, dict):
    return np.asarray(weights['w']).mean(1)
  return np.asarray(weights)
