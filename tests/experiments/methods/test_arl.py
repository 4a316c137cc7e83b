"""ARL: by how much each encoder's gradient is multiplied."""

import itertools

import numpy as np
import pytest

from experiments.methods import arl
from experiments.methods import common
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def entropy(logits):
  p = recorded.softmax(logits)
  return -np.sum(p * np.log(p), axis=-1).mean()


weights = recorded.compiled(arl.weights)


def test_each_modality_is_weighted_by_the_others():
  # One of them reaches the lower bound.
  for count, size in itertools.product((2, 3), (0.5, 4.0)):
    logits = np.random.default_rng(8).normal(0.2, 1, (count, 9, 4))
    logits[-1] *= size
    sizes = np.array([np.abs(one).mean(0).sum() for one in logits])
    others = [np.delete(sizes, m).mean() / sizes.sum() for m in range(count)]
    entropies = np.array([entropy(one) for one in logits])
    h, least = entropies / entropies.sum(), {2: 0.3, 3: 0.2}[count]
    assert (h.min() < least) == (size == 4)
    q = 1 / np.maximum(h, least)
    exponents = np.exp(8.0 * np.array(others) * q / q.sum())
    expected = exponents / exponents.sum()
    np.testing.assert_allclose(weights(logits, 8.0), expected, rtol=1e-5)


def test_without_evidence_or_with_certainty_all_learn_alike():
  for logits in (np.zeros((3, 3, 3)), 1e4 * np.eye(3)[:, None].repeat(3, 1)):
    found = weights(logits, 8.0)
    np.testing.assert_allclose(found, np.full(3, 1 / 3), rtol=1e-5)


def test_only_gradients_of_encoders_are_multiplied():
  task = recorded.make_task(recorded.THREE)
  options = {'gamma': 2.5, 'warm_up_epochs': 2.0}
  method, state, batch = recorded.begun(arl, task, **options)
  losses, _, gradients = recorded.learn(method, state, batch)
  names = set(recorded.THREE)
  logits = np.array(
    [
      recorded.logits_of(*recorded.LINEAR, names - {name})
      for name in recorded.THREE
    ]
  )
  expected = sum(recorded.cross_entropy(one) for one in logits)
  np.testing.assert_allclose(losses['unimodal'], expected, rtol=1e-5)
  # Encoders learn from it, although the heads may use stopped features.
  kernels = recorded.kernels(*recorded.LINEAR)
  slopes = [
    np.sum(recorded.residual_of(one) @ kernels[name].T * inputs)
    for (name, inputs), one in zip(recorded.THREE.items(), logits, strict=True)
  ]
  found = recorded.scales(gradients['unimodal'])
  np.testing.assert_allclose(found, slopes, rtol=1e-3)
  later = weights(logits, 8.0)
  assert np.ptp(later) > 0.01
  theirs = arl.make(task, released='authors', **options)
  # The last step of the warm-up, and the one after.
  for made, step, gamma, w in (
    (method, 19, 1.0, [1 / 3] * 3),
    (method, 20, 2.5, later),
    (theirs, 20, 2.5, [1 / 3] * 3),
  ):
    now = recorded.at_step(state, step)
    assert common.factors(made, now)['unimodal'] == gamma
    found, _ = recorded.update_of(made, now, batch)
    expected = recorded.summed(gradients, fused=1, unimodal=gamma)
    for factor, name in zip(w, recorded.THREE, strict=True):
      expected[f'encoders_{name}']['scale'] *= 1 + factor
    checks.assert_close(found, expected, rtol=1e-4)
