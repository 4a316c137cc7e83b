"""CR-MOGM, and the rule that it wraps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import jacobians
from tests.mimo_jax.weightings import of_gradients as of


def test_cr_mogm_is_the_running_mean_of_the_wrapped_weights(x64):
  observations = [
    of.observe(
      jacobians.generic(3, 7, seed), losses=jacobians.losses_of([0] * 3)
    )
    for seed in range(4)
  ]
  inner = of.make('mgda')
  for rule in (
    of.make('cr_mogm', decay=0.7),
    of.make('cr_mogm', weighting=inner, decay=0.7),
  ):
    state, mean = of.init(rule, 3), None
    for observation in observations:
      weights, state = of.update(rule, observation, state)
      expected = np.asarray(
        of.update(inner, observation, of.init(inner, 3))[0], float
      )
      mean = expected if mean is None else 0.7 * mean + 0.3 * expected
      np.testing.assert_allclose(weights, mean, rtol=of.tolerance(x64, 1e-12))
      np.testing.assert_array_equal(state.mean, weights)
    assert np.abs(mean - expected).max() > 0.01


@pytest.mark.slow
def test_cr_mogm_takes_a_schedule():
  rule = weightings.cr_mogm(decay=optax.linear_schedule(0.0, 1.0, 4))
  inner = of.make('mgda')
  state, mean = of.init(rule, 3), 0
  for step in range(6):
    observation = of.observe(jacobians.generic(3, 7, seed=step))
    weights, state = of.update(rule, observation, state)
    new = np.asarray(of.update(inner, observation, of.init(inner, 3))[0], float)
    mean = min(step / 4, 1) * mean + (1 - min(step / 4, 1)) * new
    np.testing.assert_allclose(weights, mean, rtol=1e-5)


def test_cr_mogm_has_the_state_and_the_needs_of_the_wrapped_rule():
  rule = weightings.cr_mogm(of.make('modo'))
  assert rule.needs == 'cross_gramian'
  assert rule.extra_args == ('independent_updates',)
  observation = mimo_jax.Observation(
    jnp.ones(3),
    cross_gramian=jnp.asarray(of.TORCHJD['MoDo']['steps'][0]['input']),
  )
  state = of.init(rule, 3)
  for _ in range(2):
    _, state = of.update(rule, observation, state)
  inner = of.make('modo')
  inner_state = of.init(inner, 3)
  for _ in range(2):
    _, inner_state = of.update(inner, observation, inner_state)
  np.testing.assert_allclose(
    state.weighting.shares, inner_state.shares, rtol=1e-6
  )
