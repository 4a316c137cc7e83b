"""Programs are timed in turn, and ratios are taken within rounds."""

import math
import types

import numpy as np
import pytest

from experiments.benchmark import timing
from tests.experiments.report import made_up


def times(*rounds):
  return timing.Times(np.array(rounds), min(rounds))


def test_ratios_are_taken_within_rounds():
  """A machine that is ten times slower in one round changes no ratio."""
  ours, theirs = times(1.0, 20.0, 3.0), times(2.0, 60.0, 3.0)
  assert timing.ratio(theirs, ours) == 2.0
  comparison = timing.Comparison(ours, theirs)
  # The ratio of medians would be 3 / 3.
  assert comparison.ratio == comparison.ratio_of_fastest == 2.0
  assert timing.Comparison(times(4.0, 5.0), times(2.0, 5.0)).ratio == 0.75
  assert math.isnan(timing.Comparison(ours).ratio)


def test_the_summary_has_the_median_and_the_minimum():
  comparisons = {
    name: timing.Comparison(times(2.0, 1.0), times(2.0 * factor, factor))
    for name, factor in (('one', 3.0), ('two', 0.5), ('three', 2.0))
  }
  assert timing.summary(comparisons) == (
    'median 2.00, least 0.50 (two); of the fastest calls: median 2.00, least'
    ' 0.50 (two)'
  )


@pytest.fixture
def clock(monkeypatch):
  """A clock that only advances when programs add to `now`."""
  clock = types.SimpleNamespace(now=0.0)
  fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
  monkeypatch.setattr(timing, 'time', fake)
  return clock


def test_programs_are_called_in_turn_and_the_first_call_is_not_counted(clock):
  called = []

  def program(name):
    def call():
      clock.now += 0.01 if name in called else 9.0
      called.append(name)

    return call

  taken = timing.interleaved({'a': program('a'), 'b': program('b')}, 3)
  assert ''.join(called) == 'ab' + 'ba' + 'ab' + 'ba'
  for each in taken.values():
    np.testing.assert_allclose(each.rounds, [0.01, 0.01, 0.01])
    np.testing.assert_allclose(each.fastest, 0.01)


def test_no_round_begins_after_the_time_limit(clock):
  def call():
    clock.now += 1.0

  for seconds, rounds in ((0.0, 2), (3.5, 4), (99.0, 9)):
    taken = timing.interleaved({'one': call}, 9, seconds)
    assert taken['one'].rounds.shape == (rounds,)


def test_short_programs_are_timed_over_many_calls(clock):
  """So single disturbed calls do not matter."""
  number = 0

  def call():
    nonlocal number
    number += 1
    clock.now += 1.0 if number % 7 == 0 else 2.0**-10

  taken = timing.interleaved({'one': call}, 4)['one']
  assert taken.rounds.tolist() == [2.0**-10] * 4
  # Two calls to see how long it takes; in each round 6 that last 5 ms, and one.
  assert number == 2 + 4 * (1 + 6)


def test_a_table_compares_time_and_memory_with_the_first(monkeypatch):
  taken = {
    'default': times(0.01, 0.02, 0.03),
    'less': times(0.015, 0.032, 0.045),
  }
  monkeypatch.setattr(timing, 'interleaved', lambda *_, warm: warm and taken)
  needs = {'default': 8.0, 'less': 2.0}
  programs = {
    name: types.SimpleNamespace(run=None, megabytes=megabytes)
    for name, megabytes in needs.items()
  }
  text = timing.beside_the_first('change', programs, 3, warm=True)
  assert made_up.tables_of(text)[0][2] == [
    *('less', '32.0', '1.50', '2.0', '0.25')
  ]


def test_the_table_explains_a_difference_only_if_there_is_one():
  ours, theirs = times(1e-3, 1e-3), times(2e-3, 3e-3)
  differences = {'same': 1e-5, 'known': 0.5, 'unknown': 0.5, 'broken': math.nan}
  comparisons = {
    name: timing.Comparison(ours, theirs, difference)
    for name, difference in differences.items()
  }
  comparisons['alone'] = timing.Comparison(ours)
  reasons = {'same': 'a reason', 'known': 'a reason', 'unknown': ''}
  text = timing.table(comparisons, 'ms', reasons)
  ((header, *rows),) = made_up.tables_of(text)
  names = 'rule/ours, ms/rounds/theirs/ratio/fastest/difference/reason'
  assert header == names.split('/')
  ends = {row[0]: row[3:] for row in rows}
  assert rows[0][:3] == ['same', '1.00', '2']
  assert ends['same'] == ['2.50', '2.50', '2.00', '1.0e-05']
  assert ends['known'][-2:] == ['5.0e-01', 'a reason']
  assert ends['unknown'][-1] == ends['broken'][-1] == 'DIFFERS'
  assert not any(ends['alone'])
