"""Claims on degenerate Gramians of every kind, where they are made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import properties

pytestmark = pytest.mark.slow


_EACH = 200
_RULES = [
  name
  for name in weightings.__all__
  if name != 'constant' and getattr(weightings, name)().needs == 'gramian'
]
# For rules that depend on rank: how close to dependent unit gradients may be.
# Their smallest singular value has to exceed factor * eps ** power.
_NEAREST = {
  'cagrad': (30, 0.5),
  'config': (30, 0.5),
  'dualproj': (30, 0.5),
  'upgrad': (30, 0.5),
  'imtl_g': (5, 0.25),
  # Closer to dependence, the point may count as stationary.
  'fairgrad': (3, 0.5),
  'nash_mtl': (3, 0.5),
}


def _is_claimed(name, rows, eps):
  """Whether guarantees hold here, as stated in weightings/README.md."""
  if name == 'aligned_mtl':  # goes by the gradients as they are
    singular = np.linalg.svd(rows, compute_uv=False)
    return singular[:, -1] >= 5 * eps**0.25 * singular[:, 0]
  units = rows / np.linalg.norm(rows, axis=2, keepdims=True)
  least = np.linalg.svd(units, compute_uv=False)[:, -1]
  factor, power = _NEAREST.get(name, (0, 1))
  return least >= factor * eps**power


def _beside(sign):
  def change(random, rows):
    noise = 10.0 ** random.uniform(-9, -1, (_EACH, 1)) * rows[:, 1]
    length = random.uniform(0.3, 3, (_EACH, 1))
    rows[:, 1] = sign * length * rows[:, 0] + noise
    return rows

  return change


def _scaled(low, high, each=False):
  def change(random, rows):
    shape = (_EACH, rows.shape[1] if each else 1, 1)
    return rows * 10.0 ** random.uniform(low, high, shape)

  return change


def _multiples(random, rows):
  factors = random.uniform(0.2, 5, rows.shape[:2])
  factors *= random.choice([-1, 1], rows.shape[:2])
  return factors[:, :, None] * rows[:, :1]


_KINDS = {
  'ordinary': lambda _, rows: rows,
  'near-duplicate': _beside(1),
  'near-opposed': _beside(-1),
  'spread of 1e8': _scaled(-4, 4, each=True),
  'large': _scaled(14, 15),
  'small': _scaled(-15, -14),
  'denormal squares': _scaled(-22, -19),
  'multiples of one': _multiples,
}


@functools.cache
def _weigh(name):
  rule = getattr(weightings, name)()

  def weigh(gramian):
    observation = mimo_jax.Observation(jnp.ones(len(gramian)), gramian)
    return rule.update(observation, rule.init(len(gramian)))[0]

  return jax.jit(jax.vmap(weigh))


def _directions(name, rows, dtype):
  """Returns weights, directions Jᵀa, and Σ |aᵢ| ‖gᵢ‖."""
  gramians = np.einsum('nip,njp->nij', rows, rows).astype(dtype)
  weights = np.asarray(_weigh(name)(gramians), np.float64)
  summed = np.sum(np.abs(weights) * np.linalg.norm(rows, axis=2), axis=1)
  return weights, np.einsum('ni,nip->np', weights, rows), summed


def _errors(name, rows, dtype):
  """Returns claim -> its violation, relative to Σ |aᵢ| ‖gᵢ‖."""
  size, claims = rows.shape[1], ' '.join(properties.claims(name)).split()
  weights, direction, summed = _directions(name, rows, dtype)

  def apart(other):
    return np.linalg.norm(other - direction, axis=1) / summed

  if 'permutation_equivariant' in claims:
    order = np.roll(np.arange(size), 1)
    yield 'permuted', apart(_directions(name, rows[:, order], dtype)[1])
  if 'scale_invariant' in claims:
    yield 'scaled', apart(_directions(name, 7 * rows, dtype)[1] / 7)
  if 'row_scale_invariant' in claims:
    lengths = 2.0 ** (3 - 2 * np.arange(size))[:, None]
    yield 'rows scaled', apart(_directions(name, lengths * rows, dtype)[1])
  if 'linear_under_scaling' in claims:
    one = np.linspace(0.3, 0.8, size)[:, None]
    parts = [_directions(name, c * rows, dtype) for c in (one, 1 - one)]
    whole = sum(part[1] for part in parts)
    error = np.linalg.norm(whole - direction, axis=1)
    yield 'parts', error / sum(part[2] for part in parts)
  units = rows / np.linalg.norm(rows, axis=2, keepdims=True)
  gain = np.einsum('nip,np->ni', units, direction) / summed[:, None]
  if 'non_conflicting' in claims:
    yield 'conflict', -gain.min(1)
  if 'impartial' in claims:
    yield 'partial', np.ptp(gain, axis=1) / 2
  if 'simplex' in claims:
    yield 'simplex', np.maximum(-weights.min(1), np.abs(weights.sum(1) - 1))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize(
  ('name', 'size'),
  [
    (name, size)
    for name in _RULES
    for size in (2, 3, 5)
    if (name, size) != ('krum', 2)  # of two there is no majority
  ],
)
def test_claims_hold_on_degenerate_gramians(name, size, dtype):
  random = np.random.RandomState(size)
  eps = np.finfo(dtype).eps
  with (
    jax.enable_x64(dtype is np.float64),
    np.errstate(invalid='ignore', divide='ignore'),
  ):
    for kind, change in _KINDS.items():
      rows = change(random, random.normal(size=[_EACH, size, 8])).astype(dtype)
      rows = rows.astype(np.float64)
      assert np.all(np.isfinite(_directions(name, rows, dtype)[0])), kind
      if kind == 'denormal squares' and dtype is np.float32:
        continue
      is_claimed = _is_claimed(name, rows, eps)
      for claim, errors in _errors(name, rows, dtype):
        # For opposed gradients no direction is impartial.
        if kind != 'multiples of one' or claim == 'partial':
          errors = errors[is_claimed]
        # If all weights are zero, nothing is violated.
        worst = np.max(np.nan_to_num(errors, posinf=1.0), initial=0)
        assert worst <= 2 * eps**0.5, (kind, claim, worst / (2 * eps**0.5))


@pytest.mark.parametrize('factors', [(1, -2), (1, -2, 3, -4), (1, -3, -0.2, 7)])
def test_config_of_gradients_that_cancel_is_zero(factors, x64):
  """There are as many of one sign as of the other, of any length and order."""
  del x64
  random = np.random.RandomState(0)
  rule = weightings.config()
  update = jax.jit(rule.update)
  for _ in range(20):
    rows = np.outer(random.permutation(factors), random.normal(size=7))
    rows = rows.astype(jnp.result_type(float))
    observation = mimo_jax.Observation(jnp.ones(len(rows)), rows @ rows.T)
    weights, _ = update(observation, rule.init(len(rows)))
    np.testing.assert_array_equal(weights, 0)


def test_config_with_a_preference_may_cancel():
  rows = np.float32(np.outer([2.0, -0.7, -3.0], [0.3, -1.2, 2.1]))
  observation = mimo_jax.Observation(jnp.ones(3), rows @ rows.T)
  for preference, cancels in (([2, 1, 1], True), ([2, 1, 0.5], False)):
    rule = weightings.config(preference=preference)
    weights, _ = jax.jit(rule.update)(observation, rule.init(3))
    assert np.all(np.asarray(weights) == 0) == cancels
