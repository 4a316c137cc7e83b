"""Remix: who gets a row, and what it teaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from experiments.methods import remix
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

LINEAR = recorded.THREE, recorded.THREE_KERNEL
NAMES = tuple(recorded.THREE)


def begin(step, task=None, **options):
  task = task or recorded.make_task(recorded.THREE)
  method = remix.make(task, warm_up_epochs=0.2, **options)
  state, batch = recorded.begin(method, *LINEAR)
  return method, state._replace(step=jnp.int32(step)), batch


def own_logits(state):
  """Of each modality's head, [M, batch, C]."""
  heads = [state.params[f'heads_{name}'] for name in NAMES]
  return np.array(
    [
      recorded.THREE[name] @ np.float64(head['kernel'])
      for name, head in zip(NAMES, heads, strict=True)
    ]
  )


def owners_of(logits):
  """By the divergence from uniform probabilities, in numpy."""
  p = recorded.softmax(logits)
  return np.argmin(np.sum(p * np.log(p * p.shape[-1]), axis=-1), axis=0)


def test_in_the_warm_up_rows_have_all_modalities():
  method, state, batch = begin(1, gamma=1.8)
  losses, _, gradients = recorded.learn(method, state, batch)
  whole = recorded.cross_entropy(recorded.logits_of(*LINEAR))
  np.testing.assert_allclose(losses['fused'], whole, rtol=1e-5)
  for name, logits in zip(NAMES, own_logits(state), strict=True):
    expected = recorded.cross_entropy(logits)
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)
  update, _ = recorded.update_of(method, state, batch)
  expected = jax.tree.map(
    lambda fused, *own: fused + 0.6 * sum(own),
    *(gradients[name] for name in ('fused', *NAMES)),
  )
  checks.assert_close(update, expected)


def test_then_a_row_is_learnt_from_its_owner_alone():
  method, state, batch = begin(2)
  losses, _, gradients = recorded.learn(method, state, batch)
  own = own_logits(state)
  owner = owners_of(own)
  assert set(owner) == {0, 1, 2}
  alone = [recorded.logits_of(*LINEAR, set(NAMES) - {name}) for name in NAMES]
  mixed = np.array([alone[m][i] for i, m in enumerate(owner)])
  expected = recorded.cross_entropy(mixed)
  np.testing.assert_allclose(losses['fused'], expected, rtol=1e-5)
  start = 0
  for m, name in enumerate(NAMES):
    surprise = -np.log(recorded.own(recorded.softmax(own[m])))
    expected = 3 * np.sum(surprise * (owner == m)) / len(owner)
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)
    # The scale of an encoder learns from its own rows.
    stop = start + recorded.THREE[name].shape[1]
    kernel, start = recorded.THREE_KERNEL[start:stop], stop
    flow = recorded.residual_of(mixed) @ kernel.T * recorded.THREE[name]
    found = gradients['fused'][f'encoders_{name}']['scale']
    expected = np.sum(flow[owner == m])
    np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-3)
    head = np.asarray(state.params[f'heads_{name}']['kernel'])
    flow = recorded.residual_of(own[m]) @ head.T * recorded.THREE[name]
    found = gradients[name][f'encoders_{name}']['scale']
    expected = 3 * np.sum(flow[owner == m])
    np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-3)


def test_the_least_sure_gets_the_row():
  generator = np.random.default_rng(7)
  logits = generator.normal(0, 2, (3, 50, 5))
  found = remix.owners(jnp.float32(logits))
  np.testing.assert_array_equal(found, owners_of(logits))
  # A probability of 0 counts as one.
  found = remix.owners(jnp.array([[[200.0, 0.0]], [[-jnp.inf, 1.0]]])[:1])
  assert found.tolist() == [0]


def test_it_goes_with_a_weighting_and_a_fusion_that_multiplies():
  features = {k: recorded.FEATURES[k] for k in ('audio', 'visual')}
  task = recorded.make_task(features, fusion=nn.FiLMFusion)
  task = task._replace(weighting=mimo_jax.mimo(2.0, 0.5), weighting_name='mimo')
  method = remix.make(task, warm_up_epochs=0.0)
  state, batch = recorded.begin(method, features)
  losses, _, gradients = recorded.learn(method, state, batch)
  update, _ = recorded.update_of(method, state, batch)
  shares = np.exp(np.array([losses[k] for k in features]) / 0.5)
  shares = 2 * shares / shares.sum()
  expected = jax.tree.map(
    lambda fused, audio, visual: fused + shares[0] * audio + shares[1] * visual,
    *(gradients[name] for name in ('fused', 'audio', 'visual')),
  )
  checks.assert_close(update, expected, rtol=1e-4)
  assert all(
    np.any(checks.flat(gradients['fused'][f'encoders_{k}'])) for k in features
  )
