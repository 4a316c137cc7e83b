"""Rows that lack modalities."""

import numpy as np
import pytest

from data_pipelines import missing
from data_pipelines.views import transforms

RATES = {'a': 0.7, 'b': 0.2, 'c': 0.0, 'd': 0.4}


def test_missing_shares_are_the_rates_and_no_row_lacks_all():
  for rates in (RATES, {'a': 0.5, 'b': 0.5}, {'a': 1.0, 'b': 0.0}):
    present = missing.draw(20000, rates, seed=3)
    for name, rate in rates.items():
      # Five standard errors.
      bound = 5 * np.sqrt(rate * (1 - rate) / 20000)
      assert abs(np.mean(~present[name]) - rate) <= bound, (name, rates)
    assert np.all(np.any([*present.values()], axis=0))


def test_a_higher_equal_rate_drops_more_and_restores_none():
  low, high = (
    missing.draw(300, dict.fromkeys('abc', rate), seed=(5, 2))
    for rate in (0.2, 0.5)
  )
  for name in 'abc':
    assert np.all(low[name] | ~high[name])
    assert np.sum(~high[name]) > np.sum(~low[name]) > 0
  other = missing.draw(300, dict.fromkeys('abc', 0.2), seed=(5, 3))
  assert np.any(other['a'] != low['a'])


@pytest.mark.parametrize(
  ('rates', 'message'),
  [
    ({'a': 0.6, 'b': 0.5}, 'leave rows without any modality.*at most 1'),
    ({'a': 1.1, 'b': 0.0}, 'from 0 to 1'),
    ({'a': -0.1, 'b': 0.0}, 'from 0 to 1'),
    ({'a': float('nan'), 'b': 0.0}, 'from 0 to 1'),
  ],
)
def test_impossible_rates_are_refused(rates, message):
  with pytest.raises(ValueError, match=message):
    missing.draw(10, rates, seed=0)


def test_elements_say_what_they_lack_and_keep_their_values():
  rows = [{'a': np.float32(x), 'b': np.float32(-x)} for x in range(50)]
  source = missing.incomplete(rows, {'a': 0.0, 'b': 0.5}, 1)
  present = missing.draw(50, {'a': 0.0, 'b': 0.5}, 1)['b']
  assert [row['b_present'] for row in source] == present.tolist()
  assert source[7] == rows[7] | {'b_present': present[7]}
  with pytest.raises(ValueError, match=r"already have \['b_present'\]"):
    missing.incomplete(source, {'a': 0.0, 'b': 0.5}, 1)


def test_a_row_that_lacks_the_other_modalities_loses_none():
  rows = [{'a_present': np.bool_(x % 2)} for x in range(50)]
  source = missing.incomplete(rows, {'a': 0.0, 'b': 0.5}, 1)
  drawn = missing.draw(50, {'a': 0.0, 'b': 0.5}, 1)['b']
  assert not drawn[::2].all()
  assert [row['b_present'] for row in source] == [
    drawn[i] or not row['a_present'] for i, row in enumerate(rows)
  ]


def test_statistics_are_of_the_rows_that_have_a_modality():
  values = np.random.default_rng(0).normal(2, 3, (40, 5))
  rows = [{'a': value, 'b': 2 * value} for value in values]
  source = missing.incomplete(rows, {'a': 0.4, 'b': 0.0}, 1)
  here = [row['a_present'] for row in source]
  assert 10 < np.sum(here) < 40
  # Values that are not present may be anything.
  for row, is_here in zip(rows, here, strict=True):
    row['a'] = row['a'] if is_here else np.full(5, np.nan)
  found = transforms.statistics(source, ['a', 'b'])
  np.testing.assert_allclose(found.mean['a'], values[here].mean(0))
  np.testing.assert_allclose(found.std['a'], values[here].std(0))
  np.testing.assert_allclose(found.std['b'], 2 * values.std(0))
