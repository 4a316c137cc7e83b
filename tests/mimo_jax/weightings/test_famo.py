"""FAMO."""

import numpy as np
import optax
import scipy.special
import scipy.stats

from mimo_jax import weightings
from tests.mimo_jax.weightings import of_losses as of


def test_famo_equals_the_reference(x64):
  steps = of.REFERENCE['famo']
  losses = [step['losses'] for step in steps]
  # In the first call there is no earlier step.
  after = [[7.0, 3.0, 5.0], *(step['after'] for step in steps[:-1])]
  rule = weightings.famo(minima=-1e-8)  # the reference adds it to the losses
  weights, state = of.run(rule, losses, after)
  np.testing.assert_allclose(
    weights,
    [step['weights'] for step in steps],
    rtol=1e-10 if x64 else 1e-5,
  )
  np.testing.assert_allclose(
    state.logits,
    steps[-2]['logits'],
    rtol=1e-9 if x64 else 1e-4,
    atol=1e-14,
  )


def test_famo_updates_its_logits_before_it_weights(x64):
  sequence = of.falling(4)
  after = np.roll(sequence, 1, axis=0) * np.linspace(0.9, 0.97, 4) ** 2
  minima = np.array([-0.1, 0.0, 1e-3, -0.3])
  rule = weightings.famo(optax.sgd(2.0), minima)
  weights, state = of.run(rule, sequence, after)
  logits = np.zeros(4)
  for step, actual in enumerate(weights):
    if step:
      shares = scipy.special.softmax(logits)
      progress = np.log(sequence[step - 1] - minima) - np.log(
        after[step] - minima
      )
      # The slope of Σ zᵢ δᵢ in the logits, as the Jacobian of softmax has it.
      jacobian = np.diag(shares) - np.outer(shares, shares)
      logits = logits - 2 * jacobian @ progress
    ratios = scipy.special.softmax(logits) / (sequence[step] - minima)
    np.testing.assert_allclose(
      actual, ratios / ratios.sum(), rtol=1e-12 if x64 else 1e-5
    )
  np.testing.assert_allclose(state.logits, logits, rtol=1e-12 if x64 else 1e-4)


def test_famo_ignores_losses_after_in_the_first_step():
  sequence, after = of.falling(), 0.9 * np.roll(of.falling(), 1, axis=0)
  expected, _ = of.run(weightings.famo(), sequence, after)
  for first in (0.0, 1e30, np.nan):
    after[0] = first
    np.testing.assert_array_equal(
      of.run(weightings.famo(), sequence, after)[0], expected
    )


def test_famo_leaves_out_zero_losses(x64):
  tolerance = 1e-12 if x64 else 1e-5
  # The loss of objective 1 is zero before, after, or now.
  for before, after, present in (
    (0.1, 0.9, 0.7),
    (0.9, -3.0, 0.7),
    (0.9, 0.9, 0.1),
  ):
    sequence = [[1.0, before, 2.0], [1.0, present, 2.0]]
    weights, state = of.run(
      weightings.famo(optax.sgd(1.0), minima=[0.0, 0.1, 0.0]),
      sequence,
      [[1.0, 1.0, 1.0], [0.5, after, 1.9]],
    )
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    for losses, actual in zip(sequence, weights, strict=True):
      assert (actual[1] == 0) == (losses[1] == 0.1)
    if present == 0.1:  # then the earlier step counts
      assert state.logits[1] != 0
      continue
    # The other two objectives have half of the shares each.
    progress = np.log([2.0, 2.0 / 1.9])
    move = 0.5 * (progress - progress.mean())
    np.testing.assert_allclose(
      state.logits, [-move[0], 0, -move[1]], rtol=tolerance
    )


def test_famo_with_only_zero_losses_has_the_weights_of_its_logits():
  sequence = [[1.0, 2.0, 3.0], [0.0, 0.0, -1.0], [0.0, -2.0, 0.0]]
  after = [[1.0, 1.0, 1.0], [0.5, 1.9, 0.2], [0.0, 0.0, 0.0]]
  weights, state = of.run(weightings.famo(optax.sgd(1.0)), sequence, after)
  expected = scipy.special.softmax(np.asarray(state.logits, float))
  np.testing.assert_allclose(weights[1:], [expected] * 2, rtol=1e-5)
  assert np.ptp(expected) > 0.1


def test_famo_of_losses_far_apart_is_finite():
  sequence = [[1e-30, 1e30, 1.0], [1e30, 1e-30, 1.0]]
  after = [[1.0, 1.0, 1.0], [1e30, 1e-30, 1.0]]
  weights, state = of.run(weightings.famo(optax.sgd(1.0)), sequence, after)
  np.testing.assert_allclose(weights, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
  assert np.all(np.isfinite(state.logits))
  assert state.logits[0] > state.logits[2] > state.logits[1]
