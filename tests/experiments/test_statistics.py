"""Paired tests against their definitions."""

import itertools

import numpy as np
from scipy import stats

from experiments.evaluation import statistics


def test_holm_is_the_closed_test_by_bonferroni():
  generator = np.random.default_rng(0)
  for _ in range(20):
    p_values = dict(zip('abcd', generator.uniform(0, 0.1, 4), strict=True))
    # Closed testing: the largest Bonferroni p of all sets with that test.
    expected = {
      name: max(
        min(1, len(some) * min(p_values[k] for k in some))
        for size in range(1, 5)
        for some in itertools.combinations('abcd', size)
        if name in some
      )
      for name in 'abcd'
    }
    found = statistics.holm(p_values)
    np.testing.assert_allclose(
      list(found.values()), list(expected.values()), rtol=1e-12
    )
  assert statistics.holm({'a': 0.9, 'b': 0.8}) == {'a': 1.0, 'b': 1.0}


def test_difference_is_the_paired_t_test():
  generator = np.random.default_rng(1)
  ours, theirs = generator.normal(size=(2, 9))
  found = statistics.difference(ours, theirs)
  expected = stats.ttest_rel(ours, theirs)
  np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-10)
  np.testing.assert_allclose(
    found.estimate.mean / found.estimate.error, expected.statistic, rtol=1e-10
  )
  assert statistics.difference(ours, ours).p_value == 1
  assert statistics.difference(ours[:1], theirs[:1]).p_value != 0


def test_standard_error_and_ties_are_those_of_paired_runs():
  best = np.array([0.90, 0.80, 0.70, 0.60])
  values = {
    'behind': best - np.array([0.010, 0.011, 0.009, 0.010]),  # always
    'best': best,
    'close': best - np.array([0.02, -0.02, 0.03, -0.01]),  # now and then
  }
  assert statistics.ties(values, higher_is_better=True) == ('best', ['close'])
  mean, error = statistics.estimate(best)
  np.testing.assert_allclose([mean, error], [0.75, 0.1290994 / 2], rtol=1e-5)
