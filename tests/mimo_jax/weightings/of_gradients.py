"""What tests of rules that see gradients share."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import mimo_jax
from tests import jacobians
from tests import properties
from tests import reference

REFERENCE = reference.read('jacobian_weightings')
TORCHJD = REFERENCE['torchjd']['sequences']
LIBMTL = REFERENCE['libmtl']['sequences']
RULES = (
  'pcgrad',
  'gradvac',
  'graddrop',
  'krum',
  'trimmed_mean',
  'cr_mogm',
  'modo',
  'sdmgrad',
  'moco',
  'db_mtl',
  'gradnorm',
  'excess_mtl',
)


make = properties.make


def tolerance(x64, wide=1e-10, narrow=1e-4):
  return wide if x64 else narrow


def observe(rows, losses=None, jacobian=False):
  """Makes an observation in the default type; the Gramian is from float64."""
  rows = np.asarray(rows, float)
  losses = np.ones(len(rows)) if losses is None else losses
  return mimo_jax.Observation(
    losses=jax.device_put(np.asarray(losses)),
    gramian=jax.device_put(rows @ rows.T),
    # Rules for Gramians do not need it, and would compile for every P.
    jacobian={'w': jax.device_put(rows)} if jacobian else None,
  )


def init(rule, size, params=3):
  return rule.init(size, {'w': jnp.zeros(params)})


def update(rule, observation, state):
  return properties.compiled(rule)[0](observation, state)


def of_cases(method):
  """Yields Jacobians, and TorchJD's results of `method` for them."""
  cases = REFERENCE['torchjd']['jacobians'].items()
  return [(case['J'], case[method]) for _, case in cases if method in case]


def assert_one_of(candidates, value, atol):
  """Returns the index of the one candidate that is equal to `value`."""
  distances = np.abs(np.asarray(candidates) - value).max(axis=1)
  assert distances.min() <= atol, distances
  return int(distances.argmin())


def projected(point):
  """Projects on the simplex by scipy's quadratic programming."""
  size = len(point)
  result = scipy.optimize.minimize(
    lambda x: np.sum((x - point) ** 2) / 2,
    np.full(size, 1 / size),
    jac=lambda x: x - point,
    bounds=[(0, None)] * size,
    constraints={'type': 'eq', 'fun': lambda x: x.sum() - 1},
    method='SLSQP',
    options={'ftol': 1e-15, 'maxiter': 200},
  )
  return result.x


def cross_gramian(size, seed=0):
  """Makes the product of two similar batches, which is not symmetric."""
  rows = jacobians.generic(size, size + 4, seed)
  noise = jacobians.generic(size, size + 4, seed + 10)
  return (rows + 0.3 * noise) @ (rows - 0.2 * noise).T


def cross(matrix):
  matrix = jax.device_put(np.asarray(matrix))
  return mimo_jax.Observation(jnp.ones(len(matrix)), cross_gramian=matrix)


def gramian(matrix):
  matrix = jax.device_put(np.asarray(matrix))
  return mimo_jax.Observation(jnp.ones(len(matrix)), gramian=matrix)
