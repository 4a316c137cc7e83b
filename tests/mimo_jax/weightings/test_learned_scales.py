"""Learned scales: UW and IMTL-L."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax.weightings import of_losses as of

LEARNED = {
  # name: (weight of s, slope in s, field of the state)
  'uw': (
    lambda s: np.exp(-s) / 2,
    lambda s, losses: 0.5 - np.exp(-s) * losses / 2,
    'log_variances',
  ),
  'imtl_l': (np.exp, lambda s, losses: np.exp(s) * losses - 1, 'log_scales'),
}
each_learned = pytest.mark.parametrize('name', LEARNED)


@each_learned
def test_learned_scales_follow_their_gradient(name, x64):
  weight, slope, field = LEARNED[name]
  sequence = of.falling()
  s = np.array([0.2, -0.4, 0.1])
  rule = getattr(weightings, name)(optax.sgd(0.1), init=s)
  weights, state = of.run(rule, sequence)
  for losses, actual in zip(sequence, weights, strict=True):
    # The present s gives the weights, then it is updated.
    np.testing.assert_allclose(actual, weight(s), rtol=1e-12 if x64 else 1e-5)
    s = s - 0.1 * slope(s, losses)
  np.testing.assert_allclose(
    getattr(state, field), s, rtol=1e-12 if x64 else 1e-4
  )


@each_learned
def test_learned_scales_have_adam_by_default(name, x64):
  weight, slope, _ = LEARNED[name]
  sequence = of.falling()
  weights, _ = of.run(getattr(weightings, name)(), sequence)
  s, first, second = np.zeros([3, 3])
  for step, (losses, actual) in enumerate(
    zip(sequence, weights, strict=True), start=1
  ):
    np.testing.assert_allclose(actual, weight(s), rtol=1e-9 if x64 else 1e-5)
    gradient = slope(s, losses)
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    root = np.sqrt(second / (1 - 0.999**step)) + 1e-8
    s = s - 0.025 * first / (1 - 0.9**step) / root


@each_learned
def test_a_zero_loss_does_not_move_its_scale(name):
  field = LEARNED[name][2]
  sequence = np.tile([0.0, 0.7, -3.0], [50, 1])
  rule = getattr(weightings, name)(init=[0.3, 0.2, -0.1])
  weights, state = of.run(rule, sequence)
  s = np.asarray(getattr(state, field))
  np.testing.assert_array_equal(s[[0, 2]], np.float32([0.3, -0.1]))
  assert abs(s[1] - 0.2) > 0.1
  np.testing.assert_array_equal(
    weights[:, [0, 2]], weights[:1, [0, 2]].repeat(50, 0)
  )


@each_learned
def test_a_scale_that_overshoots_stays_finite(name):
  sign = {'uw': -1, 'imtl_l': 1}[name]
  rule = getattr(weightings, name)(init=[200.0 * sign, 0.3 * sign])
  weights = of.weigh(rule, [0.0, 0.5])
  assert 1e38 < weights[0] < math.inf


@pytest.mark.slow
@each_learned
def test_initial_scales_tell_balance_the_number_of_objectives(name):
  weight = LEARNED[name][0]
  rule = getattr(weightings, name)(init=[0.2, -0.3])
  updates, _ = checks.first_step(
    mimo_jax.balance(rule), lambda x: list(x**2), jnp.array([1.0, -2.0])
  )
  expected = weight(np.array([0.2, -0.3])) * [2, -4]
  np.testing.assert_allclose(updates, expected, rtol=1e-6)
