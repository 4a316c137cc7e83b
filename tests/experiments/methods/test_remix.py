"""Remix: which modality gets a row, and what learns from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import remix
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

LINEAR = recorded.THREE, recorded.THREE_KERNEL
NAMES = tuple(recorded.THREE)


TASK = recorded.make_task(recorded.THREE)
METHOD = remix.make(TASK, gamma=1.8, warm_up_epochs=0.2)


def learn(step):
  """Returns state and batch of a step, its losses and their gradients."""
  state, batch = recorded.begin(METHOD, *LINEAR)
  state = state._replace(step=jnp.int32(step))
  losses, _, gradients = recorded.learn(METHOD, state, batch)
  return state, batch, losses, gradients


def own_logits(state):
  """Computes the logits of each modality's head, [M, batch, C]."""
  heads = [state.params[f'heads_{name}'] for name in NAMES]
  return np.array(
    [
      recorded.THREE[name] @ np.float64(head['kernel'])
      for name, head in zip(NAMES, heads, strict=True)
    ]
  )


def owners_of(logits):
  """Finds the owners by divergence from uniform probabilities, in NumPy."""
  p = recorded.softmax(logits)
  return np.argmin(np.sum(p * np.log(p * p.shape[-1]), axis=-1), axis=0)


def test_in_the_warm_up_rows_have_all_modalities():
  state, batch, losses, gradients = learn(1)
  whole = recorded.cross_entropy(recorded.logits_of(*LINEAR))
  np.testing.assert_allclose(losses['fused'], whole, rtol=1e-5)
  for name, logits in zip(NAMES, own_logits(state), strict=True):
    expected = recorded.cross_entropy(logits)
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)
  update, _ = recorded.update_of(METHOD, state, batch)
  expected = jax.tree.map(
    lambda fused, *own: fused + 0.6 * sum(own),
    *(gradients[name] for name in ('fused', *NAMES)),
  )
  checks.assert_close(update, expected)


def test_after_the_warm_up_only_its_owner_learns_from_a_row():
  state, _, losses, gradients = learn(2)
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
    # The scale of an encoder learns only from its rows.
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


def test_the_least_confident_modality_gets_the_row():
  generator = np.random.default_rng(7)
  logits = generator.normal(0, 2, (3, 50, 5))
  found = remix.owners(jnp.float32(logits))
  np.testing.assert_array_equal(found, owners_of(logits))
