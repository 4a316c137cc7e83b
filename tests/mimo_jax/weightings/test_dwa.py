"""Dynamic weight average."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from mimo_jax import weightings
from tests import checks
from tests.mimo_jax.weightings.of_losses import falling
from tests.mimo_jax.weightings.of_losses import REFERENCE
from tests.mimo_jax.weightings.of_losses import run


def averaged_dynamically(sequence, temperature, steps_per_epoch):
  """Computes DWA in NumPy from the whole history."""
  size = sequence.shape[1]
  weights = []
  for step in range(len(sequence)):
    epoch = step // steps_per_epoch
    if epoch < 2:
      weights.append(np.ones(size))
      continue
    means = [
      sequence[e * steps_per_epoch : (e + 1) * steps_per_epoch].mean(0)
      for e in (epoch - 1, epoch - 2)
    ]
    rates = means[0] / means[1]
    weights.append(size * scipy.special.softmax(rates / temperature))
  return np.array(weights)


@pytest.mark.parametrize(
  ('temperature', 'steps_per_epoch'),
  [(0.05, 3), *(checks.slow(*case) for case in ((2, 1), (0.05, 1), (2, 5)))],
)
def test_dwa_compares_the_last_two_epochs(temperature, steps_per_epoch, x64):
  for size in (1, 64):
    sequence = falling(size, steps=17)
    weights, _ = run(weightings.dwa(temperature, steps_per_epoch), sequence)
    np.testing.assert_allclose(
      weights,
      averaged_dynamically(sequence, temperature, steps_per_epoch),
      rtol=1e-12 if x64 else 1e-4,
    )
    np.testing.assert_allclose(weights.sum(1), size, rtol=1e-5)


def test_dwa_equals_the_reference(x64):
  for case in REFERENCE['dwa']:
    weights, _ = run(
      weightings.dwa(case['temperature'], steps_per_epoch=2),
      [step['losses'] for step in case['steps']],
    )
    np.testing.assert_allclose(
      weights,
      [step['weights'] for step in case['steps']],
      rtol=1e-12 if x64 else 1e-5,
    )


def test_dwa_gives_the_slowest_loss_most_weight():
  weights, _ = run(weightings.dwa(1e-6), [[1.0, 1.0, 1.0], [0.5, 0.8, 0.7]] * 2)
  np.testing.assert_array_equal(weights[2], [0, 3, 0])
  weights, _ = run(weightings.dwa(math.inf), falling())
  np.testing.assert_array_equal(weights, np.ones([12, 3]))


def test_dwa_of_losses_that_are_zero_is_finite():
  # A zero loss has no rate and counts as 1; from tiny to huge is the largest.
  weights, _ = run(
    weightings.dwa(1.0), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.5], [9.0, 9.0, 9.0]]
  )
  np.testing.assert_allclose(
    weights[2], 3 * scipy.special.softmax([1, 1, 0.5]), rtol=1e-6
  )
  weights, _ = run(
    weightings.dwa(0.5), [[1e-30, 1.0, 1.0], [1e30, 0.5, 0.4], [1.0, 1.0, 1.0]]
  )
  np.testing.assert_array_equal(weights[2], [3, 0, 0])
