"""Random weights: their distribution and their seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import weightings
from tests.mimo_jax.weightings import of_losses as of


def test_random_weights_are_a_softmax_of_normal_draws():
  update = jax.vmap(
    lambda key: weightings.random().update(
      of.observe(of.LOSSES[:3]), weightings.random().init(3)._replace(key=key)
    )[0]
  )
  weights = np.asarray(
    jax.jit(update)(
      jax.random.key_data(jax.random.split(jax.random.key(3), 9000))
    )
  )
  assert weights.min() > 0
  np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.008)
  # log w_i − log w_j = z_i − z_j has variance 2 and fourth moment 3 · 2².
  for i, j in ((0, 1), (1, 2), (2, 0)):
    differences = np.log(weights[:, i] / weights[:, j])
    assert abs(differences.mean()) < 0.06
    np.testing.assert_allclose(np.mean(differences**2), 2, rtol=0.06)
    np.testing.assert_allclose(np.mean(differences**4), 12, rtol=0.15)


def test_random_weights_depend_on_the_seed_and_not_on_the_losses():
  first, state = of.run(weightings.random(seed=5), of.falling(seed=1))
  again, _ = of.run(weightings.random(seed=5), 1e6 * of.falling(seed=2))
  np.testing.assert_array_equal(first, again)
  other, _ = of.run(weightings.random(seed=6), of.falling(seed=1))
  assert not np.any(first == other)
  assert len(np.unique(first[:, 0])) == len(first)
  fresh = weightings.random(seed=5).init(3)
  assert not jnp.all(
    jax.random.key_data(state.key) == jax.random.key_data(fresh.key)
  )


@pytest.mark.slow
def test_random_takes_a_traced_seed():
  def draw(seed):
    rule = weightings.random(seed)
    return rule.update(of.observe(of.LOSSES), rule.init(5))[0]

  np.testing.assert_array_equal(
    jax.jit(jax.vmap(draw))(jnp.arange(2))[1], jax.jit(draw)(1)
  )
