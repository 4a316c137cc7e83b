"""AGM: coefficients, and what they scale."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import agm
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_coefficients_are_those_of_the_authors_formula():
  of_reference = recorded.REFERENCE['agm']
  names = ('visual', 'audio', 'text')
  for step in of_reference['steps']:
    found = agm.coefficients(
      jnp.array([step['scores'][name] for name in names]),
      jnp.array([step['running'][name] for name in names]),
      of_reference['alpha'],
    )
    expected = [step['coefficients'][name] for name in names]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_of_two_modalities_each_is_compared_with_the_other():
  scores, running = np.array([0.4, 1.7]), np.array([0.9, 0.2])
  found = agm.coefficients(jnp.array(scores), jnp.array(running), 0.7)
  strength = np.exp(scores[::-1] - scores)
  before = np.exp(running[::-1] - running)
  np.testing.assert_allclose(found, np.exp(0.7 * (before - strength)), 1e-5)


def test_equal_modalities_are_left_alone_and_others_capped():
  for count in (2, 3, 5):
    np.testing.assert_array_equal(
      agm.coefficients(jnp.full(count, 0.3), jnp.full(count, 2.0), 1.5), 1
    )
  # τ is exp(±20), r is e and 1/e.
  apart = agm.coefficients(jnp.array([0.0, 1.0]), jnp.array([0.0, 20.0]), 0.1)
  np.testing.assert_allclose(apart[0], np.exp(0.1 * 10), rtol=1e-6)
  np.testing.assert_allclose(apart[1], np.exp(-0.1 / np.e), rtol=1e-5)


def test_what_flows_into_each_modalitys_part_of_the_logits_is_scaled():
  alpha, running = 0.8, np.array([1.3, 0.5])
  method = agm.make(recorded.make_task(), alpha=alpha)
  state, batch = recorded.begin(method)
  state = state._replace(
    memory=agm.RunningScores(jnp.float32(running), jnp.int32(3))
  )
  losses, seen, found = recorded.gradient_of('fused', method, state, batch)
  logits = recorded.logits_of()
  np.testing.assert_allclose(
    losses['fused'], recorded.cross_entropy(logits), 1e-5
  )

  scores = np.array(
    [
      recorded.cross_entropy(np.array(recorded.REFERENCE['mono_outputs'][name]))
      for name in ('audio', 'visual')
    ]
  )
  np.testing.assert_allclose(seen.memory.mean, (3 * running + scores) / 4, 1e-5)
  assert seen.memory.steps == 4

  factors = np.exp(
    alpha * (np.exp(running[::-1] - running) - np.exp(scores[::-1] - scores))
  )
  assert abs(factors - 1).min() > 0.1
  residual = (recorded.softmax(logits) - np.eye(4)[recorded.LABELS]) / 6
  for i, name in enumerate(('audio', 'visual')):
    rows = slice(5 * i, 5 * i + 5)
    features = recorded.FEATURES[name]
    into_features = factors[i] * residual @ recorded.KERNEL[rows].T
    np.testing.assert_allclose(
      found[f'encoders_{name}']['scale'],
      np.sum(into_features * features, keepdims=True),
      rtol=1e-4,
    )
    np.testing.assert_allclose(
      found['fusion']['Dense_0']['kernel'][rows],
      factors[i] * features.T @ residual,
      rtol=1e-4,
      atol=1e-6,
    )
