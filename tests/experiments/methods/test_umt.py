"""UMT: distillation, and teachers that are copies of the model."""

import chex
import numpy as np
import pytest

from experiments.methods import umt
from tests.experiments.methods import recorded


@pytest.mark.quick
@pytest.mark.parametrize('released', [None, 'balance_benchmark'])
def test_features_are_pulled_to_those_of_teachers_in_evaluation_mode(released):
  """BalanceBenchmark leaves the teachers in training mode."""
  task = recorded.make_task(encoder=recorded.Normalised)
  method, state, batch = recorded.begun(
    umt, task, strength=3.0, released=released
  )
  losses, seen = recorded.losses_of(method, state, batch)
  expected = 0.0
  for name in recorded.FEATURES:
    taught, student = (
      batch[name] @ np.asarray(tree[f'encoders_{name}']['Dense_0']['kernel'])
      for tree in (state.memory['params'], state.params)
    )
    # Running statistics, still the initial ones, and those of the batch.
    taught = whitened(taught) if released else taught / np.sqrt(1 + 1e-5)
    expected += 3.0 * np.mean((whitened(student) - taught) ** 2)
  np.testing.assert_allclose(losses['distillation'], expected, rtol=1e-4)
  chex.assert_trees_all_equal(seen.memory, state.memory)


def whitened(values):
  centred = values - np.mean(values, axis=0, keepdims=True)
  return centred / np.sqrt(np.var(values, axis=0, keepdims=True) + 1e-5)
