"""MIMO: its weights, schedules and sweeps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from tests.mimo_jax.weightings.penalised import LOSSES
from tests.mimo_jax.weightings.penalised import penalised
from tests.mimo_jax.weightings.penalised import weigh


def test_high_temperature_spreads_the_penalty_evenly():
  weights = weigh(LOSSES, penalty=2.5, temperature=1e8)
  np.testing.assert_allclose(weights, [1] + [2.5 / 4] * 4, rtol=1e-6)
  weights = weigh(LOSSES, penalty=2.5, temperature=math.inf)
  np.testing.assert_array_equal(weights, [1] + [2.5 / 4] * 4)


def test_weights_are_one_and_the_penalty_shared_by_softmax(x64):
  """They are the gradient of the penalised objective."""
  for temperature in (1e-2, 0.7, 30.0):
    weights = weigh(LOSSES, penalty=0.8, temperature=temperature)
    shares = np.exp((LOSSES[1:] - LOSSES[1:].max()) / temperature)
    expected = np.append(1, 0.8 * shares / shares.sum())
    # A relative error of F/μ is an absolute error of log π.
    rtol = (1e-14 if x64 else 3e-7) * max(1, 3 / temperature)
    np.testing.assert_allclose(weights, expected, rtol=rtol, atol=1e-37)
    gradient = jax.grad(penalised)(jnp.asarray(LOSSES), 0.8, temperature)
    np.testing.assert_allclose(
      weights, gradient, rtol=1e-12 if x64 else 2e-6, atol=1e-30
    )


def test_adding_a_constant_to_every_modality_changes_nothing():
  # Eighths and whole numbers, so that the addition is exact.
  losses = np.array([0.3, 1.25, 0.5, 2.875, 0.125], np.float32)
  weights = weigh(losses, penalty=1.7, temperature=0.3)
  for constant in (-3.0, 0.5, 1024.0):
    shifted = losses + constant * np.array([0, 1, 1, 1, 1], np.float32)
    np.testing.assert_array_equal(
      weigh(shifted, penalty=1.7, temperature=0.3), weights
    )


def test_weights_do_not_depend_on_the_fused_loss():
  for fused in (-5.0, 0.0, 1e6):
    losses = np.append(fused, LOSSES[1:])
    np.testing.assert_array_equal(weigh(losses), weigh(LOSSES))


def test_extreme_losses_and_temperatures_are_exact(x64):
  weights = weigh([1e4, 1e4, 9999.0, 3.0], penalty=0.7, temperature=1e-6)
  np.testing.assert_array_equal(
    weights, np.array([1, 0.7, 0, 0], weights.dtype)
  )
  assert weights.dtype == (jnp.float64 if x64 else jnp.float32)
  weights = weigh([0.0, -1e30, 1e30], temperature=1e-6)
  np.testing.assert_array_equal(weights, [1, 0, 1])


def test_one_modality_has_the_whole_penalty_and_a_single_objective_none():
  weights = weigh([0.2, 5.0], penalty=0.3, temperature=1e-6)
  np.testing.assert_array_equal(weights, np.float32([1, 0.3]))
  np.testing.assert_array_equal(weigh([7.0], penalty=0.3), [1])


def test_a_nan_among_the_losses_shows_in_the_weights():
  losses = LOSSES.copy()
  losses[2] = np.nan
  assert np.all(np.isnan(weigh(losses)[1:]))


def penalty_schedule(step):
  return 0.5 + 0.25 * step


def temperature_schedule(step):
  return 2.0 / (1 + step)


@pytest.mark.parametrize('scheduled', ['penalty', 'temperature', 'both'])
def test_schedules_see_the_number_of_steps_and_trace_once(scheduled):
  traces = []

  def penalty(step):
    traces.append(step)
    return penalty_schedule(step)

  rules = {
    'penalty': mimo_jax.mimo(penalty, 0.7),
    'temperature': mimo_jax.mimo(0.9, temperature_schedule),
    'both': mimo_jax.mimo(penalty, temperature_schedule),
  }
  rule = rules[scheduled]
  update = jax.jit(rule.update)
  state = rule.init(5)
  assert state.step.dtype == jnp.int32
  for step in range(4):
    assert int(state.step) == step
    weights, state = update(
      mimo_jax.Observation(jnp.asarray(LOSSES, jnp.float32)), state
    )
    expected = weigh(
      np.float32(LOSSES),
      penalty=0.9 if scheduled == 'temperature' else penalty_schedule(step),
      temperature=0.7 if scheduled == 'penalty' else temperature_schedule(step),
    )
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
  assert len(traces) == (0 if scheduled == 'temperature' else 1)
