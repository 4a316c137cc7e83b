"""Paired tests, compared with their definitions."""

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.evaluate import statistics

pytestmark = pytest.mark.quick


def test_holm_is_the_closed_test_by_bonferroni():
  generator = np.random.default_rng(0)
  for _ in range(20):
    p_values = dict(zip('abcd', generator.uniform(0, 0.1, 4), strict=True))
    # Closed testing: the largest Bonferroni p over all sets with that test.
    expected = {
      name: max(
        min(1, len(some) * min(p_values[k] for k in some))
        for size in range(1, 5)
        for some in itertools.combinations('abcd', size)
        if name in some
      )
      for name in 'abcd'
    }
    assert statistics.holm(p_values) == pytest.approx(expected, rel=1e-12)
  assert statistics.holm({'a': 0.9, 'b': 0.8}) == {'a': 1.0, 'b': 1.0}


def test_p_value_is_that_of_the_paired_t_test():
  ours, theirs = np.random.default_rng(1).normal(size=(2, 9))
  mean, error = statistics.estimate(ours - theirs)
  found = mean / error, statistics.p_value(ours - theirs)
  expected = stats.ttest_rel(ours, theirs)
  np.testing.assert_allclose(found, list(expected), rtol=1e-10)
  assert statistics.p_value(ours - ours) == 1
  assert statistics.p_value(ours - ours + 0.5) == 0
  assert np.isnan(statistics.p_value(ours[:1] - theirs[:1]))


def test_standard_error_and_ties_are_those_of_paired_runs():
  best = np.array([0.90, 0.80, 0.70, 0.60])
  values = {
    'behind': best - np.array([0.010, 0.011, 0.009, 0.010]),  # always
    'best': best,
    'close': best - np.array([0.02, -0.02, 0.03, -0.01]),  # now and then
  }
  assert statistics.ties(values, higher_is_better=True) == ('best', ['close'])
  errors = {name: -of_seed for name, of_seed in values.items()}
  assert statistics.ties(errors, higher_is_better=False) == ('best', ['close'])
  assert statistics.ties(values, higher_is_better=False)[0] == 'behind'
  mean, error = statistics.estimate(best)
  np.testing.assert_allclose([mean, error], [0.75, 0.1290994 / 2], rtol=1e-5)


def test_rounding_does_not_decide_ties():
  # If one seed differs, the difference is its standard error, up to rounding.
  rng = np.random.default_rng(0)
  for num_seeds in (3, 10):
    for number in range(50):
      best = np.round(rng.uniform(0.5, 1, num_seeds) * 200) / 200
      one = best.copy()
      one[number % num_seeds] -= rng.integers(1, 9) / 200
      values = {'one': one, 'best': best, 'below': one - 1e-6}
      assert statistics.ties(values, True) == ('best', ['one']), values
  for scale in (1e-12, 1.0, 1e12):
    values = {
      'a': scale * np.array([0.3, 0.2, 0.1]),
      'b': scale * np.array([0.1, 0.2, 0.3]),
    }
    for up in (False, True):
      assert statistics.ties(values, up) == ('a', ['b'])


def test_best_is_the_first_of_equal_values_and_never_nan():
  values = {'nan': [np.nan, 0.9], 'a': [0.5, 0.7], 'b': [0.7, 0.5]}
  for last, best in ((0.7, ('a', 'a')), (0.8, ('a', 'b'))):
    values['b'][0] = last
    arrays = {name: np.array(one) for name, one in values.items()}
    for up in (False, True):
      assert statistics.ties(arrays, up)[0] == best[up]
