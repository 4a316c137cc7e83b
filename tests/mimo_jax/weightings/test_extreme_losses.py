"""Scalarizations of losses that are zero, extreme or on the ray."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import mimo_jax
from mimo_jax import weightings
from tests.mimo_jax.weightings import of_losses as of

pytestmark = pytest.mark.slow


def test_geometric_mean_of_extreme_losses_is_exact():
  rule = weightings.geometric_mean()
  # A product of 64 of them is beyond float64, too.
  for losses in (of.LOSSES, of.SAMPLES['many']):
    expected = of.weigh(rule, losses)
    for scale in (1e-30, 1e-12, 1e12, 1e30):
      np.testing.assert_allclose(
        of.weigh(rule, scale * losses), expected, rtol=2e-5
      )
  spread = np.array([1e-20, 1.0, 1e17])
  np.testing.assert_allclose(
    of.weigh(rule, spread), scipy.stats.gmean(spread) / 3 / spread, rtol=2e-5
  )
  weights = of.weigh(rule, [1e-37, 1e38, 1e38])
  assert np.all(np.isfinite(weights))
  assert weights[0] > 1e37


def test_geometric_mean_leaves_out_losses_that_are_not_positive(x64):
  rule, mean = weightings.geometric_mean(), 4 ** (1 / 3)
  expected = [mean / 4 / 0.5, 0, mean / 4 / 2, mean / 4 / 4]
  for spent in (0.0, -0.3, -1e30):
    np.testing.assert_allclose(
      of.weigh(rule, [0.5, spent, 2.0, 4.0]),
      expected,
      rtol=1e-13 if x64 else 1e-6,
    )
  for losses in ([0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, -3.0, -1e-30]):
    np.testing.assert_array_equal(of.weigh(rule, losses), [0.25] * 4)


def test_a_nan_is_not_taken_for_a_zero_loss():
  losses = np.array([0.5, np.nan, 2.0])
  for rule in (weightings.geometric_mean(), weightings.famo()):
    assert np.all(np.isnan(of.weigh(rule, losses, after=of.LOSSES[:3])))


def test_stch_between_the_worst_and_all():
  preference = [0.5, 0.4, 0.3, 0.2, 0.1]
  weights = of.weigh(weightings.stch(1e-6, preference), of.LOSSES)
  np.testing.assert_allclose(weights, [0, 0, 0, 0.2, 0], rtol=1e-6)
  weights = of.weigh(weightings.stch(math.inf, preference), of.LOSSES)
  np.testing.assert_allclose(weights, np.array(preference) / 5, rtol=1e-6)


def test_stch_of_extreme_losses_is_finite():
  weights = of.weigh(weightings.stch(1e-6), [1e35, -1e35, 3.0, 1e35])
  np.testing.assert_allclose(weights, [0.125, 0, 0, 0.125], rtol=1e-6)


def test_cosmos_without_penalty_is_the_preference(x64):
  preference = of.uneven(of.LOSSES)
  weights = of.weigh(weightings.cosmos(0, preference), of.LOSSES)
  np.testing.assert_allclose(weights, preference, rtol=1e-15 if x64 else 1e-6)
  for losses in (of.LOSSES, np.zeros(5)):
    rule = weightings.cosmos(0 if losses.any() else 40.0)
    np.testing.assert_allclose(of.weigh(rule, losses), 0.2, rtol=1e-6)


def test_cosmos_on_the_ray_is_the_preference(x64):
  preference = of.uneven(of.LOSSES)
  weights = of.weigh(weightings.cosmos(1.0, preference), 3.7 * preference)
  np.testing.assert_allclose(weights, preference, atol=1e-15 if x64 else 3e-7)


def test_pbi_has_slope_one_along_the_ray_and_the_penalty_across(x64):
  rtol = 1e-11 if x64 else 2e-4
  for sample in ('five', 'uneven', 'many'):
    losses = of.SAMPLES[sample]
    direction = of.uneven(losses) / of.length(of.uneven(losses))
    # S is homogeneous of degree one in L.
    value = of.boundary_intersection(losses, 2.5, of.uneven(losses), 0.0)
    for scale in (1e-20, 1.0, 1e20):
      weights = of.weigh(weightings.pbi(2.5, of.uneven(losses)), scale * losses)
      np.testing.assert_allclose(weights @ direction, 1, rtol=rtol)
      np.testing.assert_allclose(of.length(weights - direction), 2.5, rtol=rtol)
      np.testing.assert_allclose(weights @ losses, value, rtol=rtol)


@pytest.mark.slow
def test_pbi_on_the_ray_does_not_follow_rounding(x64):
  random = np.random.RandomState(0)

  def weigh_on_ray(preference, ideal, away):
    rule = weightings.pbi(5.0, preference, ideal)
    return rule.update(mimo_jax.Observation(ideal + away * preference), ())[0]

  for size in (1, 2, 3, 7, 64):
    preference = 0.01 + random.uniform(size=[40, size])
    ideal = random.normal(size=[40, size])
    away = np.tile([0.0, 1e-3, 1.0, 1e4], 10)
    dtype = jnp.result_type(float)
    weights = jax.jit(jax.vmap(weigh_on_ray))(
      *(jnp.asarray(each, dtype) for each in (preference, ideal, away))
    )
    np.testing.assert_allclose(
      weights,
      preference / np.linalg.norm(preference, axis=1, keepdims=True),
      rtol=1e-14 if x64 else 1e-6,
    )


def test_pbi_near_the_ray_but_off_it_pays_the_penalty():
  losses = np.array([1.0, 1.0 + 1e-5, 1.0])
  weights = of.weigh(weightings.pbi(5.0), losses)
  across = 5 * np.array([-1, 2, -1]) / math.sqrt(6)
  np.testing.assert_allclose(weights, 3**-0.5 + across, atol=0.1)
