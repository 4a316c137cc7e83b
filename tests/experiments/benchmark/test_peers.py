"""TorchJD, with which weightings are compared, computes the same."""

import importlib.util

import numpy as np
import pytest

import mimo_jax
from experiments.benchmark import peers
from experiments.benchmark import programs
from experiments.benchmark import rules
from experiments.benchmark import timing

# PyTorch is as large as all else together, and only these three tests need it.
needs_peers = pytest.mark.skipif(
  bool(peers.missing()),
  reason='needs TorchJD, which is optional: the extra `peers` installs it',
)
# Rules that draw random numbers, or stop before the solution.
OTHERS = ('gradvac', 'graddrop', 'mgda', 'pcgrad')


def test_peers_are_the_same_rules_as_ours():
  assert set(peers.PEERS) <= set(mimo_jax.weightings.__all__)
  assert set(rules.SOLVED) <= set(peers.PEERS)


def test_the_error_of_a_missing_peer_says_how_to_install_it(monkeypatch):
  find_spec = importlib.util.find_spec

  def without_two(name):
    return None if name in ('torch', 'ecos') else find_spec('math')

  monkeypatch.setattr(importlib.util, 'find_spec', without_two)
  assert peers.missing() == (
    "TorchJD is not timed, for want of torch, ecos; pip install '.[peers]' gets"
    ' it.'
  )
  assert peers.missing('PyTorch').startswith(
    'PyTorch is not timed, for want of torch; pip'
  )
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
  assert peers.missing() == ''


LIMITS = {'with_peers': True, 'repeats': 2, 'seconds': 0.0}


@needs_peers
@pytest.mark.parametrize('size', [2, 7])
def test_directions_agree_with_torchjd(size):
  shapes = [(3, 50), (150,)]
  comparisons = rules.compare_directions(peers.PEERS, size, shapes, **LIMITS)
  assert set(comparisons) == set(peers.PEERS)
  for name, each in comparisons.items():
    if size < peers.PEERS[name].fewest:
      assert each.theirs is None
    elif name in OTHERS and (name, size) != ('pcgrad', 2):
      assert peers.PEERS[name].differs
    else:
      assert each.difference < timing.TOLERANCE, name


@needs_peers
def test_weights_agree_with_torchjd():
  comparisons = rules.compare_weights(peers.PEERS, 7, **LIMITS)
  assert set(comparisons) == set(peers.PEERS) - {'graddrop', 'trimmed_mean'}
  for name, each in comparisons.items():
    if name not in OTHERS:
      assert each.difference < timing.TOLERANCE, name


@needs_peers
def test_exact_minimum_norm_is_below_that_of_frank_wolfe():
  """If the two differ, ours is the solution."""
  rows = programs.conflicting_rows(7, 500)
  ours = programs.direction('mgda', programs.as_gradients(rows, [(500,)]))
  theirs = peers.direction('mgda', peers.tensor(rows))
  one, other = (each.direction(each.run()) for each in (ours, theirs))
  assert np.linalg.norm(one) < 0.9999 * np.linalg.norm(other)
