"""CR-MOGM, and the rule that it wraps."""

import jax.numpy as jnp
import numpy as np

import mimo_jax
from mimo_jax import weightings
from tests import jacobians
from tests.mimo_jax.weightings import of_gradients as of


def test_cr_mogm_is_the_running_mean_of_the_wrapped_weights(x64):
  inner = of.make('mgda')

  def schedule(step):
    return 0.5 + 0.125 * step

  for rule, decay_at in (
    (of.make('cr_mogm', decay=0.7), lambda _: 0.7),
    (of.make('cr_mogm', weighting=inner, decay=0.7), lambda _: 0.7),
    (of.make('cr_mogm', decay=schedule), schedule),
  ):
    state, mean = of.init(rule, 3), None
    for step in range(4):
      observation = of.observe(jacobians.generic(3, 7, step))
      weights, state = of.update(rule, observation, state)
      new = of.update(inner, observation, of.init(inner, 3))[0]
      new, decay = np.asarray(new, float), decay_at(step)
      mean = new if mean is None else decay * mean + (1 - decay) * new
      np.testing.assert_allclose(weights, mean, rtol=of.tolerance(x64, 1e-12))
      np.testing.assert_array_equal(state.mean, weights)
    assert np.abs(mean - new).max() > 0.01


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
