"""What tests of rules that see the Gramian share."""

import jax.numpy as jnp
import numpy as np

import mimo_jax
from tests import properties
from tests import reference

REFERENCE = reference.read('gramian_weightings')
ROWS = {name: np.array(rows) for name, rows in REFERENCE['jacobians'].items()}
RULES = {
  'mgda': properties.make('mgda', zero_rows='keep'),
  'upgrad': properties.make('upgrad'),
  'dualproj': properties.make('dualproj'),
  'cagrad_0.5': properties.make('cagrad'),
  'cagrad_0.2': properties.make('cagrad', c=0.2),
  'fairgrad_1': properties.make('fairgrad'),
  'fairgrad_2': properties.make('fairgrad', alpha=2.0),
  'nash_mtl': properties.make('nash_mtl'),
  'config': properties.make('config'),
  'imtl_g': properties.make('imtl_g'),
  'aligned_mtl_min': properties.make('aligned_mtl'),
  'aligned_mtl_median': properties.make('aligned_mtl', scale='median'),
  'aligned_mtl_rmse': properties.make('aligned_mtl', scale='rmse'),
  'pcd_0.02': properties.make('pcd'),
  'pcd_0.5': properties.make('pcd', progress=0.5),
}


def weigh(rule, rows, losses=None):
  """Returns a rule's first weights, from a Gramian in the default precision."""
  losses = np.ones(len(rows)) if losses is None else losses
  observation = mimo_jax.Observation(
    jnp.asarray(losses, float), jnp.asarray(rows @ rows.T, float)
  )
  return np.asarray(
    properties.compiled(rule)[0](observation, rule.init(len(rows)))[0], float
  )


def direction(name, rows):
  return rows.T @ weigh(RULES[name], rows)


def assert_close(actual, expected, tolerance, scale=0.0, of=''):
  scale = max(np.linalg.norm(expected), scale)
  error = np.linalg.norm(actual - expected)
  assert error <= tolerance * scale, (of, error, scale)


def answers(library, name):
  """Yields another library's directions for a rule, sample by sample."""
  for sample, directions in REFERENCE[library].items():
    if name in directions:
      yield sample, ROWS[sample], np.array(directions[name])
