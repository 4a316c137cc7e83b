"""What tests of rules that see the Gramian share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import mimo_jax
from mimo_jax import weightings
from tests import reference

REFERENCE = reference.read('gramian_weightings')
ROWS = {name: np.array(rows) for name, rows in REFERENCE['jacobians'].items()}
RULES = {
  'mgda': weightings.mgda(zero_rows='keep'),
  'upgrad': weightings.upgrad(),
  'dualproj': weightings.dualproj(),
  'cagrad_0.5': weightings.cagrad(c=0.5),
  'cagrad_0.2': weightings.cagrad(c=0.2),
  'fairgrad_1': weightings.fairgrad(alpha=1.0),
  'fairgrad_2': weightings.fairgrad(alpha=2.0),
  'nash_mtl': weightings.nash_mtl(),
  'config': weightings.config(),
  'imtl_g': weightings.imtl_g(),
  'aligned_mtl_min': weightings.aligned_mtl(),
  'aligned_mtl_median': weightings.aligned_mtl(scale='median'),
  'aligned_mtl_rmse': weightings.aligned_mtl(scale='rmse'),
  'pcd_0.02': weightings.pcd(progress=0.02),
  'pcd_0.5': weightings.pcd(progress=0.5),
}
jitted = functools.cache(jax.jit)


def weigh(rule, rows, losses=None):
  """The first weights of a rule, from a Gramian in the precision at hand."""
  losses = np.ones(len(rows)) if losses is None else losses
  observation = mimo_jax.Observation(
    jnp.asarray(losses, float), jnp.asarray(rows @ rows.T, float)
  )
  return np.asarray(
    jitted(rule.update)(observation, rule.init(len(rows)))[0], float
  )


def direction(name, rows):
  return rows.T @ weigh(RULES[name], rows)


def assert_close(actual, expected, tolerance, scale=0.0, of=''):
  scale = max(np.linalg.norm(expected), scale)
  error = np.linalg.norm(actual - expected)
  assert error <= tolerance * scale, (of, error, scale)


def answers(library, name):
  """The directions that a library has for a rule, sample by sample."""
  for sample, directions in REFERENCE[library].items():
    if name in directions:
      yield sample, ROWS[sample], np.array(directions[name])
