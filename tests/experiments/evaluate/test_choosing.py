"""Selection on validation, and how ties are resolved."""

import numpy as np
import pytest

from experiments.evaluate import choosing

pytestmark = pytest.mark.quick


def choose(*candidates, steps=(10, 20), **options):
  """Chooses among candidates, each read-out -> [seeds, steps]."""
  options = {'stopping': False, 'higher_is_better': True} | options
  found = [{'validation': one} for one in candidates]
  return choosing.choose(found, steps, **options)


def at_the_end(*scores):
  return [[0.0, one] for one in scores]


def test_ties_go_to_the_default_then_to_the_first_drawn():
  # The best is the last; the third differs from it by +0.02, -0.01: a tie.
  behind = {'fused': at_the_end(0.70, 0.80)}
  close = {'fused': at_the_end(0.79, 0.90)}
  best = {'fused': at_the_end(0.81, 0.89)}
  assert choose(behind, close, best).candidate == 1
  assert choose(behind, best, close).candidate == 1
  assert choose(close, behind, best).candidate == 0
  found = choose(behind, behind, best)
  assert (found.candidate, found.num_tied) == (2, 0)
  np.testing.assert_allclose([found.mean, found.error], [0.85, 0.04])
  # A candidate that is behind by the same in every seed is no tie.
  little = {'fused': at_the_end(0.809, 0.889)}
  assert choose(little, best).candidate == 1
  assert choose(best, best).candidate == 0


def test_among_tied_read_outs_the_fused_one_is_chosen():
  fused, other = at_the_end(0.79, 0.90), at_the_end(0.81, 0.89)
  assert choose({'fused': fused, 'heads': other}).readout == 'fused'
  assert choose({'heads': other, 'fused': fused}).readout == 'fused'
  assert choose({'all': fused, 'heads': other}).readout == 'heads'
  worse = at_the_end(0.7, 0.8)
  assert choose({'fused': worse, 'heads': other}).readout == 'heads'
  # The default precedes other candidates, whatever its read-out.
  found = choose({'fused': worse, 'heads': fused}, {'fused': other})
  assert found[:2] == (0, 'heads')


def test_only_early_stopping_considers_steps_before_the_last():
  peak = {'fused': [[0.9, 0.5], [0.8, 0.4]]}
  assert choose(peak).step == 20
  assert choose(peak, stopping=True)[:3] == (0, 'fused', 10)
  level = {'fused': [[0.79, 0.81], [0.90, 0.89]]}
  assert choose(level, stopping=True).step == 20


def test_low_errors_are_better_and_nan_is_never_chosen():
  low, high = {'fused': at_the_end(0.1, 0.2)}, {'fused': at_the_end(0.4, 0.6)}
  nothing = {'fused': at_the_end(float('nan'), 0.0)}
  assert choose(nothing, high, low, higher_is_better=False).candidate == 2
  assert choose(nothing, high, low).candidate == 1
  assert np.isnan(choose({'fused': [[0.0, 1.0]]}).error)  # of one seed
