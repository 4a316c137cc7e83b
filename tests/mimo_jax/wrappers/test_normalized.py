"""`normalized`: weights of a fixed sum, for rules of every kind."""

import jax
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax.wrappers.rules import each
from tests.mimo_jax.wrappers.rules import first_step
from tests.mimo_jax.wrappers.rules import RULES


@pytest.mark.parametrize('kind', RULES)
def test_weights_sum_to_the_total_and_keep_their_ratios(kind):
  rule = RULES[kind]
  expected, state = first_step(rule)
  scaled = mimo_jax.normalized(rule, total=2.5)
  assert scaled.needs == rule.needs
  weights, new_state = first_step(scaled)
  assert abs(np.abs(each(weights)).sum() - 2.5) < 1e-5
  factor = 2.5 / np.abs(each(expected)).sum()
  assert abs(factor - 1) > 0.1
  checks.assert_close(
    weights, jax.tree.map(lambda leaf: factor * leaf, expected)
  )
  checks.assert_close(new_state, state)


@pytest.mark.parametrize('size', [1e-30, 1e38])
def test_weights_of_any_size_are_normalized(size):
  weights = size * np.array([1.0, 2.0, -3.0])
  rule = mimo_jax.normalized(weightings.constant(weights))
  np.testing.assert_allclose(
    first_step(rule)[0], [1 / 6, 1 / 3, -1 / 2], rtol=1e-5
  )


def test_weights_of_zero_stay_zero_and_nan_stays_nan():
  for value in (0.0, np.nan):
    rule = mimo_jax.stateless(
      lambda observation, value=value: value * observation.losses,
      needs='losses',
    )
    weights, _ = first_step(mimo_jax.normalized(rule))
    np.testing.assert_array_equal(weights, np.full(3, value))


def test_anything_but_a_rule_and_a_total_is_refused():
  with pytest.raises(ValueError, match=r'expected a mimo_jax.Weighting'):
    mimo_jax.normalized(mimo_jax.mimo)
  for total in (0, -1.0, np.inf):
    with pytest.raises(ValueError, match='total='):
      mimo_jax.normalized(mimo_jax.mimo(), total=total)
