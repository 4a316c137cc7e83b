"""MLB: its coefficients, and what they scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import mlb
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def factor(lag, alpha, beta):
  return 1 + ((beta if lag > 1 else 2) - 1) * np.tanh(alpha * (lag - 1))


def test_coefficients_are_one_at_equal_scores_and_bounded_by_beta():
  for beta in (0.5, 1.0, 2.0, 10.0):
    lags = jnp.array([0.0, 0.3, 0.999, 1.0, 1.001, 4.0, 1e30, jnp.inf])
    found = np.asarray(mlb.coefficients(lags, 3.0, beta))
    assert found[3] == 1
    assert np.all((found[:3] > 0) & (found[:3] < 1))
    assert np.all(np.diff(found[:4]) > 0)
    assert np.all(np.sign(found[4:] - 1) == np.sign(beta - 1))
    np.testing.assert_allclose(found[-2:], beta, rtol=1e-6)
    assert np.all(found <= max(1, beta) * (1 + 1e-6))


def test_each_is_compared_with_the_mean_of_the_others():
  scores = np.array([0.5, 0.2, 0.1])
  found = mlb.lag(jnp.array(scores), are_errors=False)
  np.testing.assert_allclose(found, [0.15 / 0.5, 0.3 / 0.2, 0.35 / 0.1], 1e-5)
  found = mlb.lag(jnp.array(scores), are_errors=True)
  np.testing.assert_allclose(found, [0.5 / 0.15, 0.2 / 0.3, 0.1 / 0.35], 1e-5)
  for are_errors in (False, True):
    for same in (jnp.zeros(3), jnp.full(3, 0.4), jnp.ones(1)):
      np.testing.assert_allclose(mlb.lag(same, are_errors), 1, rtol=1e-6)


@pytest.mark.parametrize('kind', ['concat', 'sum', 'film', 'regression'])
def test_the_whole_gradient_of_a_modality_is_scaled(kind):
  changes = {
    'concat': {},
    'sum': {'fusion': nn.SumFusion},
    'film': {'fusion': nn.FiLMFusion},
    'regression': {'num_classes': 1},
  }[kind]
  task = recorded.make_task(**changes)
  method, state, batch = recorded.begun(mlb, task, alpha=0.7, beta=4.0)
  _, _, gradients = recorded.learn(method, state, batch)
  # All losses, and heads that train encoders.
  expected = recorded.summed(gradients, fused=1, audio=1, visual=1)
  assert np.any(gradients['audio']['encoders_audio']['scale'])
  outputs = recorded.apply(method.model, state.variables, batch)
  own = np.array([outputs[k] for k in ('audio', 'visual')])
  if kind == 'regression':
    means = np.mean((own[..., 0] - recorded.LABELS) ** 2, axis=1)
    lags = means / means[::-1]
  else:
    means = [recorded.own(p).mean() for p in recorded.softmax(own)]
    lags = np.divide(means[::-1], means)
  audio, visual = (factor(lag, 0.7, 4.0) for lag in lags)
  assert abs(audio - visual) > 0.02
  expected['encoders_audio'] = scaled(expected['encoders_audio'], audio)
  expected['encoders_visual'] = scaled(expected['encoders_visual'], visual)
  fusion = expected['fusion']
  if kind in ('concat', 'regression'):
    rows = np.repeat([audio, visual], 5)[:, None]
    fusion['Dense_0']['kernel'] = fusion['Dense_0']['kernel'] * rows
  elif kind == 'sum':
    fusion['audio'] = scaled(fusion['audio'], audio)
    fusion['visual'] = scaled(fusion['visual'], visual)
  update, _ = recorded.update_of(method, state, batch)
  checks.assert_close(update, expected, rtol=1e-4)


def scaled(tree, by):
  return jax.tree.map(lambda leaf: by * leaf, tree)
