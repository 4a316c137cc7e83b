"""Rules with weights for each coordinate: GradDrop and the trimmed mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import weightings
from tests import jacobians
from tests.mimo_jax.weightings.of_gradients import init
from tests.mimo_jax.weightings.of_gradients import make
from tests.mimo_jax.weightings.of_gradients import observe
from tests.mimo_jax.weightings.of_gradients import of_cases
from tests.mimo_jax.weightings.of_gradients import tolerance
from tests.mimo_jax.weightings.of_gradients import update


def drops(rule, rows, keys):
  """Returns the weights [N, K, P] of N draws."""
  rows = jnp.asarray(rows)
  observation = observe(rows, jacobian=True)

  def weigh(key):
    state = init(rule, len(rows))._replace(key=key)
    return rule.update(observation, state)[0]['w']

  return np.asarray(jax.jit(jax.vmap(weigh))(keys), float)


def test_graddrop_keeps_one_sign_at_each_coordinate(key):
  rows = jacobians.generic(5, 11)
  rows[:, 3] = np.abs(rows[:, 3])
  rows[:, 7] = -np.abs(rows[:, 7])
  rows[:, 9] = 0
  rows[2, 4] = 0
  weights = drops(
    make('graddrop'), rows, jax.random.key_data(jax.random.split(key, 300))
  )
  kept_positive = np.all(weights == (rows > 0), axis=1)
  kept_negative = np.all(weights == (rows < 0), axis=1)
  assert np.all(kept_positive | kept_negative)
  assert np.all(kept_positive[:, 3])
  assert np.all(kept_negative[:, 7])
  assert not np.any(weights[:, :, 9])
  mixed = [0, 1, 2, 4, 5, 6, 8, 10]
  assert np.all(np.any(kept_positive[:, mixed], axis=0))
  assert np.all(np.any(kept_negative[:, mixed], axis=0))


@pytest.mark.slow
def test_graddrop_is_the_sum_on_average(key):
  rows = jacobians.generic(4, 7)
  number = 4000
  weights = drops(
    make('graddrop'), rows, jax.random.key_data(jax.random.split(key, number))
  )
  directions = np.sum(weights * rows, axis=1)
  expected = rows.sum(axis=0)
  error = 5 * directions.std(axis=0) / np.sqrt(number)
  assert np.all(np.abs(directions.mean(axis=0) - expected) <= error + 1e-5)
  # Coordinates draw independently: their choices are not correlated.
  choices = np.sum(weights * (rows > 0), axis=1) > 0
  choices = choices[:, (choices.std(axis=0) > 0)].astype(float)
  assert choices.shape[1] >= 4
  correlations = np.corrcoef(choices.T) - np.eye(choices.shape[1])
  assert np.abs(correlations).max() < 5 / np.sqrt(number)


def test_graddrop_draws_leaf_by_leaf_and_step_by_step():
  rows = jacobians.generic(3, 40)
  rule = make('graddrop')
  leaf = jnp.asarray(rows)
  observation = observe(rows)._replace(jacobian={'a': leaf, 'b': leaf})
  first, state = update(rule, observation, init(rule, 3))
  second, _ = update(rule, observation, state)
  assert np.any(first['a'] != first['b'])
  assert np.any(first['a'] != second['a'])
  other = make('graddrop', seed=1)
  other, _ = update(other, observation, init(other, 3))
  assert np.any(first['a'] != other['a'])


def test_graddrop_leaks_a_share_of_what_it_drops():
  rows = jacobians.generic(3, 9)
  observation = observe(rows, jacobian=True)
  rule = make('graddrop')
  plain, _ = update(rule, observation, init(rule, 3))
  rule = weightings.graddrop(leak=[0.25, 0.0, 1.0])
  weights, _ = update(rule, observation, init(rule, 3))
  leaks = np.array([0.25, 0, 1])[:, None]
  expected = leaks + (1 - leaks) * np.asarray(plain['w'])
  np.testing.assert_allclose(weights['w'], expected, rtol=1e-6)
  assert np.any(weights['w'] == 0.25)
  rule = weightings.graddrop(leak=1.0)
  weights, _ = update(rule, observation, init(rule, 3))
  np.testing.assert_array_equal(weights['w'], np.ones([3, 9]))


@pytest.mark.slow
def test_graddrop_draws_in_float32_for_small_types(key):
  rows = jnp.asarray([[255.0], [-1.0]], jnp.bfloat16)
  observation = observe(np.ones([2, 1]))._replace(jacobian=rows)
  rule = make('graddrop')

  def weigh(key):
    return rule.update(observation, init(rule, 2)._replace(key=key))[0][1, 0]

  dropped = jax.jit(jax.vmap(weigh))(
    jax.random.key_data(jax.random.split(key, 20000))
  )
  # Purity 255/256; bfloat16 draws are multiples of 1/128 and never pass it.
  share = float(np.mean(np.asarray(dropped, float)))
  assert abs(share - 1 / 256) < 5 * np.sqrt(1 / 256 / 20000)


@pytest.mark.parametrize('num_trimmed', [0, 1, 2, 3])
def test_trimmed_mean_leaves_out_the_extremes_at_each_coordinate(
  num_trimmed, x64
):
  rows = np.round(jacobians.generic(7, 40), 0)  # with ties
  rows[:, 5] = rows[2, 5]
  rows[[1, 4]] = rows[3]
  rule = make('trimmed_mean', num_trimmed=num_trimmed)
  weights, _ = update(rule, observe(rows, jacobian=True), init(rule, 7))
  each = np.asarray(weights['w'], float)
  kept = 7 - 2 * num_trimmed
  np.testing.assert_array_equal(np.count_nonzero(each, axis=0), [kept] * 40)
  middle = np.sort(rows, axis=0)[num_trimmed : 7 - num_trimmed]
  rtol = tolerance(x64, 1e-12, 1e-5)
  np.testing.assert_allclose(
    np.sum(each * rows, axis=0), middle.mean(axis=0), rtol=rtol, atol=rtol
  )
  if num_trimmed == 3:
    median = np.sum(each * rows, axis=0)
    np.testing.assert_array_equal(median, np.median(rows, axis=0))
  # Ties are broken by the order of objectives.
  np.testing.assert_array_equal(
    np.flatnonzero(each[:, 5]), np.arange(num_trimmed, 7 - num_trimmed)
  )


def test_trimmed_mean_leaves_out_one_by_default_if_there_are_enough():
  for size, expected in ((1, 1), (2, 2), (3, 1), (4, 2), (9, 7)):
    rows = jacobians.generic(size, 6)
    rule = make('trimmed_mean')
    weights, _ = update(rule, observe(rows, jacobian=True), init(rule, size))
    kept = np.count_nonzero(weights['w'], axis=0)
    np.testing.assert_array_equal(kept, [expected] * 6)


@pytest.mark.slow
@pytest.mark.parametrize('num_trimmed', [1, 2])
def test_trimmed_mean_equals_that_of_torchjd(num_trimmed, x64):
  cases = of_cases(f'TrimmedMean({num_trimmed})')
  assert len(cases) > 2
  rule = make('trimmed_mean', num_trimmed=num_trimmed)
  for rows, expected in cases:
    if not np.any(rows, axis=1).all():
      continue  # which lets zero gradients take part
    weights, _ = update(rule, observe(rows, jacobian=True), init(rule, 3))
    vector = np.sum(np.asarray(weights['w'], float) * rows, axis=0)
    rtol = tolerance(x64, 1e-12)
    np.testing.assert_allclose(vector, expected, rtol=rtol, atol=rtol)
