"""InfoReg: when a modality is regularised, how much, and towards what."""

import jax
import numpy as np
import pytest

from experiments.methods import inforeg
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick
SPE, K, BETA = 3, 0.2, 0.9
PARAMS = {
  'encoders_a': {'Dense': {'kernel': np.full((2, 3), 0.5, np.float32)}},
  'encoders_b': {'Dense': {'kernel': np.full((4,), -0.25, np.float32)}},
  'fusion': np.ones(2, np.float32),
}
init, update = map(
  recorded.compiled, inforeg.regulated(('a', 'b'), SPE, K, BETA)
)


def simulate(sizes, scores):
  """Runs steps of given gradient sizes [epochs, 2], by hand and by the code."""
  params, state = PARAMS, init(PARAMS)
  traces, pulls = [], []
  found = {k: np.float32(v) for k, v in zip('ab', scores, strict=True)}
  generator = np.random.default_rng(0)
  for epoch, of_epoch in enumerate(sizes):
    start, squares = params, np.zeros(2)
    for step in range(SPE):
      gradient = jax.tree.map(
        lambda leaf: np.float32(generator.standard_normal(leaf.shape)), params
      )
      for i, name in enumerate(('encoders_a', 'encoders_b')):
        size = of_epoch[i] * (1 + step)
        gradient[name] = jax.tree.map(
          lambda leaf, size=size: np.float32(size) * np.sign(leaf),
          gradient[name],
        )
        squares[i] += size**2 / SPE
      updates, state = update(gradient, state, params, scores=found)
      expected = dict(gradient)
      for i, name in enumerate(('encoders_a', 'encoders_b')):
        lead = scores[i] - scores[1 - i]
        is_open = epoch > 1 and (
          traces[-1][i] - traces[-2][i] > K * traces[-1][i]
        )
        pull = np.exp(BETA * np.tanh(lead)) if is_open and lead > 0 else 0.0
        pulls.append((epoch, name, pull))
        expected[name] = jax.tree.map(
          lambda g, now, old, pull=pull: g + pull * (now - old),
          gradient[name],
          params[name],
          start[name],
        )
      checks.assert_close(updates, expected, rtol=1e-4)
      if step == 0:  # nothing is pulled at an epoch's start
        checks.assert_equal(updates, gradient)
      params = jax.tree.map(np.add, params, updates)
    traces.append(squares)
  return {(epoch, name) for epoch, name, pull in pulls if pull}


def test_the_leading_modality_is_regularised_while_its_trace_grows():
  # The trace of a grows in epochs 1 and 3, so a is held in 2 and 4.
  sizes = [(1.0, 1.0), (2.0, 1.0), (2.05, 1.0), (4.0, 1.0), (4.0, 1.0)]
  held = simulate(sizes, (0.6, 0.2))
  assert held == {(2, 'encoders_a'), (4, 'encoders_a')}
  # A modality that is behind, or level, is not regularised.
  assert simulate(sizes, (0.2, 0.6)) == set()
  assert simulate(sizes, (0.4, 0.4)) == set()


def test_the_advantage_is_over_the_modalities_that_are_behind():
  advantages = recorded.compiled(inforeg.advantages)
  scores = np.array([0.1, 0.4, 0.2, 0.4])
  expected = [0, (0.3 + 0.2) / 2, 0.1, (0.3 + 0.2) / 2]
  np.testing.assert_allclose(advantages(scores), expected, rtol=1e-6)
  assert advantages(np.array([0.3])).tolist() == [0]


def test_a_step_that_is_not_finite_does_not_change_the_state():
  bad = jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)
  scores = {'a': np.float32(0.5), 'b': np.float32(0.1)}
  _, state = update(bad, init(PARAMS), PARAMS, scores=scores)
  assert state.running.tolist() == [0, 0]
  assert state.step == 1
