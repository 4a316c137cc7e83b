"""GradNorm, by the gradient of its own loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import jacobians
from tests.mimo_jax.weightings import of_gradients as of


def gradnorm_gradient(logits, lengths, losses, initial, alpha):
  """dΣ|wᵢnᵢ − Ḡ rᵢ^α|/ds by central differences, and Ḡ."""
  size = len(logits)

  def weights(logits):
    return size * np.exp(logits) / np.exp(logits).sum()

  rates = losses / initial
  average = np.mean(weights(logits) * lengths)
  target = average * (rates / rates.mean()) ** alpha

  def objective(logits):
    return np.sum(np.abs(weights(logits) * lengths - target))

  step = 1e-6 * np.eye(size)
  gradient = [
    (objective(logits + each) - objective(logits - each)) / 2e-6
    for each in step
  ]
  return np.array(gradient), average


def test_gradnorm_descends_the_distance_to_its_targets():
  with jax.enable_x64(True):
    rule = of.make('gradnorm', alpha=0.7, optimizer=optax.sgd(0.05))
    state, logits, initial = of.init(rule, 4), np.zeros(4), None
    for seed in range(4):
      rows = jacobians.generic(4, 9, seed)
      losses = jacobians.losses_of(rows) * np.linspace(1, 0.5, 4) ** seed
      initial = losses if initial is None else initial
      weights, state = of.update(rule, of.observe(rows, losses), state)
      expected = 4 * np.exp(logits) / np.exp(logits).sum()
      np.testing.assert_allclose(weights, expected, rtol=1e-7)
      gradient, average = gradnorm_gradient(
        logits, np.linalg.norm(rows, axis=1), losses, initial, 0.7
      )
      logits = logits - 0.05 * gradient / average
      np.testing.assert_allclose(state.logits, logits, rtol=0, atol=1e-8)
    assert np.ptp(weights) > 0.05


@pytest.mark.slow
def test_gradnorm_does_not_depend_on_scale():
  losses = jacobians.losses_of([0] * 4)

  def after(gradients, values):
    rule = of.make('gradnorm')
    state = of.init(rule, 4)
    for seed in range(5):
      rows = gradients * jacobians.generic(4, 9, seed)
      fallen = values * losses * np.linspace(1, 0.5, 4) ** seed
      weights, state = of.update(rule, of.observe(rows, fallen), state)
    return weights

  expected = after(1, 1)
  assert np.ptp(expected) > 0.05
  for gradients, values in ((1e-12, 1), (1e12, 1e-12), (1, 1e12)):
    np.testing.assert_allclose(after(gradients, values), expected, rtol=1e-4)


@pytest.mark.parametrize('losses', [[0, 0.5, 0.2], [0, 0, 0], [0.4, -0.1, 0.2]])
def test_gradnorm_takes_losses_without_a_rate(losses):
  rows = jacobians.with_row(jacobians.generic(3, 7), 2, np.zeros(7))
  rule = of.make('gradnorm')
  state = of.init(rule, 3)
  for values in (losses, [0.3, 0.4, 0.1], [0.0, 0.0, 0.0]):
    weights, state = of.update(rule, of.observe(rows, np.array(values)), state)
    assert np.all(np.isfinite(weights))
    assert np.all(np.isfinite(state.logits))
    assert np.min(weights[:2]) > 0
    assert weights[2] == 0


@pytest.mark.slow
def test_gradnorm_has_the_gradients_of_libmtl(x64):
  sequence = of.LIBMTL['GradNorm(alpha=1.5,L0=[2,1.5,1.2],logit lr 0.1)']
  rule = of.make(
    'gradnorm', alpha=sequence['params']['alpha'], optimizer=optax.sgd(1.0)
  )
  rtol = of.tolerance(x64, 1e-9)
  for step in sequence['steps']:
    rows, logits = np.array(step['J']), jnp.array(step['loss_scale'])
    state = of.init(rule, 3)._replace(
      logits=logits,
      initial_losses=jnp.array([2.0, 1.5, 1.2]),
      step=jnp.ones(3, jnp.int32),
    )
    weights, after = of.update(rule, of.observe(rows, step['losses']), state)
    np.testing.assert_allclose(weights, step['reported_weight'], rtol=rtol)
    # Our loss is the distance in units of Ḡ.
    weights = np.asarray(weights, float)
    average = np.mean(weights * np.linalg.norm(rows, axis=1))
    np.testing.assert_allclose(
      (logits - after.logits) * average,
      step['loss_scale_grad'],
      rtol=0,
      atol=rtol * 10,
    )
    np.testing.assert_allclose(rows.T @ weights, step['grad'], atol=rtol)
