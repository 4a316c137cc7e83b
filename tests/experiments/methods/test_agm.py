"""AGM: its coefficients, and what they scale."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import agm
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_coefficients_are_those_of_the_authors_formula():
  of_reference = recorded.REFERENCE['agm']
  for step in of_reference['steps']:
    scores, running, expected = (
      jnp.array([step[key][name] for name in ('visual', 'audio', 'text')])
      for key in ('scores', 'running', 'coefficients')
    )
    found = agm.coefficients(scores, running, of_reference['alpha'])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_equal_modalities_are_unchanged_and_coefficients_are_capped():
  for count in (2, 3, 5):
    found = agm.coefficients(jnp.full(count, 0.3), jnp.full(count, 2.0), 1.5)
    np.testing.assert_array_equal(found, 1)
  # τ is exp(±20); r is e and 1/e.
  apart = agm.coefficients(jnp.array([0.0, 1.0]), jnp.array([0.0, 20.0]), 0.1)
  expected = np.exp([0.1 * 10, -0.1 / np.e])
  np.testing.assert_allclose(apart, expected, rtol=3e-6)


@pytest.mark.parametrize('released', [None, 'balance_benchmark'])
def test_gradients_into_each_modalitys_part_of_the_logits_are_scaled(released):
  """BalanceBenchmark scales only encoders, by the paper's divisor."""
  alpha, running = 0.8, np.array([1.3, 0.5])
  method, state, batch = recorded.begun(agm, alpha=alpha, released=released)
  memory = agm.RunningScores(jnp.float32(running), jnp.int32(3))
  state = state._replace(memory=memory)
  losses, seen, gradients = recorded.learn(method, state, batch)
  logits = recorded.logits_of()
  checks.assert_close(losses['fused'], recorded.cross_entropy(logits))
  scores = np.array([recorded.cross_entropy(x) for x in recorded.MONO_LOGITS])
  checks.assert_close(seen.memory.mean, (3 * running + scores) / 4)
  assert seen.memory.steps == 4

  before, strength = (np.exp(x[::-1] - x) for x in (running, scores))
  factors = np.exp(alpha * (before - strength))
  assert abs(factors - 1).min() > 0.1
  residual, found = recorded.residual_of(logits), gradients['fused']
  for i, (name, features) in enumerate(recorded.FEATURES.items()):
    rows = slice(5 * i, 5 * i + 5)
    kernel = features.T @ residual
    scale = np.sum(kernel * recorded.KERNEL[rows], keepdims=True)
    scale *= 1 / factors[i] if released else factors[i]
    kernel *= 1 if released else factors[i]
    checks.assert_close(
      (found['fusion']['Dense_0']['kernel'][rows], found[f'encoders_{name}']),
      (kernel, {'scale': scale}),
      rtol=1e-4,
    )
