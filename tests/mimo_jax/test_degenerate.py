"""Claims on Gramians of every degenerate kind, as far as they are claimed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings

pytestmark = pytest.mark.slow


_EACH = 200
_RULES = ('cagrad', 'config', 'dualproj', 'imtl_g', 'mgda', 'upgrad')
_NON_CONFLICTING = ('dualproj', 'mgda', 'upgrad')


def _nearest(name, eps):
  """How near to dependent unit gradients may be: their smallest singular value.

  Nearer, their rank cannot be told.
  """
  if name == 'mgda':
    return 0.0
  return 5 * eps**0.25 if name == 'imtl_g' else 30 * eps**0.5


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


def _directions(rule, rows, dtype):
  """Weights, directions Jᵀa, and Σ |aᵢ| ‖gᵢ‖."""

  def weigh(gramian):
    observation = mimo_jax.Observation(jnp.ones(len(gramian)), gramian)
    return rule.update(observation, rule.init(len(gramian)))[0]

  gramians = np.einsum('nip,njp->nij', rows, rows).astype(dtype)
  weights = np.asarray(jax.jit(jax.vmap(weigh))(gramians), np.float64)
  summed = np.sum(np.abs(weights) * np.linalg.norm(rows, axis=2), axis=1)
  return weights, np.einsum('ni,nip->np', weights, rows), summed


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('size', [2, 3, 5])
@pytest.mark.parametrize('name', _RULES)
def test_claims_hold_on_degenerate_gramians(name, size, dtype):
  random = np.random.RandomState(size)
  rule = getattr(weightings, name)()
  root = np.sqrt(np.finfo(dtype).eps)
  with jax.enable_x64(dtype is np.float64):
    for kind, change in _KINDS.items():
      rows = change(random, random.normal(size=[_EACH, size, 8])).astype(dtype)
      rows = rows.astype(np.float64)
      weights, direction, summed = _directions(rule, rows, dtype)
      assert np.all(np.isfinite(weights)), kind
      if kind == 'denormal squares' and dtype is np.float32:
        continue
      units = rows / np.linalg.norm(rows, axis=2, keepdims=True)
      least = np.linalg.svd(units, compute_uv=False)[:, -1]
      claimed = least >= _nearest(name, np.finfo(dtype).eps)
      claimed |= kind == 'multiples of one'
      allowed = 2 * root * summed[claimed]
      order = np.roll(np.arange(size), 1)
      permuted = _directions(rule, rows[:, order], dtype)[1]
      scaled = _directions(rule, 7 * rows, dtype)[1] / 7
      for other in (permuted, scaled):
        error = np.linalg.norm(other - direction, axis=1)[claimed]
        assert np.all(error <= allowed), (kind, np.max(error - allowed))
      if name in _NON_CONFLICTING:
        gain = np.min(np.einsum('nip,np->ni', units, direction), axis=1)
        gain = gain[claimed]
        assert np.all(gain >= -allowed), (kind, np.min(gain + allowed))


@pytest.mark.parametrize('factors', [(1, -2), (1, -2, 3, -4), (1, -3, -0.2, 7)])
def test_config_of_gradients_that_cancel_is_zero(factors, x64):
  """As many of one sign as of the other, whatever their lengths and order."""
  del x64
  random = np.random.RandomState(0)
  rule = weightings.config()
  update = jax.jit(rule.update)
  for _ in range(20):
    rows = np.outer(random.permutation(factors), random.normal(size=7))
    rows = rows.astype(jnp.result_type(float))
    observation = mimo_jax.Observation(
      jnp.ones(len(rows)), mimo_jax.gramian(rows)
    )
    weights, _ = update(observation, rule.init(len(rows)))
    np.testing.assert_array_equal(weights, 0)


def test_config_cancels_by_preference():
  rows = jnp.outer(jnp.array([2.0, -0.7, -3.0]), jnp.array([0.3, -1.2, 2.1]))
  observation = mimo_jax.Observation(jnp.ones(3), mimo_jax.gramian(rows))
  for preference, cancels in (([2, 1, 1], True), ([2, 1, 0.5], False)):
    rule = weightings.config(preference=preference)
    weights, _ = rule.update(observation, rule.init(3))
    assert np.all(np.asarray(weights) == 0) == cancels
