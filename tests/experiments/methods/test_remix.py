"""Remix: which modality gets a row, and what learns from it."""

import numpy as np
import pytest

from experiments.methods import remix
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

NAMES = tuple(recorded.THREE)


TASK = recorded.make_task(recorded.THREE)
METHOD = remix.make(TASK, gamma=1.8, warm_up_epochs=0.2)


def learn(step):
  """Returns state and batch of a step, its losses and their gradients."""
  state, batch = recorded.begin(METHOD)
  state = recorded.at_step(state, step)
  losses, _, gradients = recorded.learn(METHOD, state, batch)
  return state, batch, losses, gradients


def own_logits(state):
  """Computes the logits of each modality's head, [M, batch, C]."""
  return np.array(
    [
      recorded.THREE[name] @ np.float64(state.params[f'heads_{name}']['kernel'])
      for name in NAMES
    ]
  )


def owners_of(logits):
  """Finds the owners by divergence from uniform probabilities, in NumPy."""
  p = recorded.softmax(logits)
  return np.argmin(np.sum(p * np.log(p * p.shape[-1]), axis=-1), axis=0)


def test_in_the_warm_up_rows_have_all_modalities():
  state, batch, losses, gradients = learn(1)
  whole = recorded.cross_entropy(recorded.logits_of(*recorded.LINEAR))
  np.testing.assert_allclose(losses['fused'], whole, rtol=1e-5)
  for name, logits in zip(NAMES, own_logits(state), strict=True):
    expected = recorded.cross_entropy(logits)
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)
  update, _ = recorded.update_of(METHOD, state, batch)
  weights = {'fused': 1} | dict.fromkeys(NAMES, 0.6)
  checks.assert_close(update, recorded.summed(gradients, **weights))


def test_after_the_warm_up_only_its_owner_learns_from_a_row():
  state, _, losses, gradients = learn(2)
  own = own_logits(state)
  owner = owners_of(own)
  assert set(owner) == {0, 1, 2}
  alone = [
    recorded.logits_of(*recorded.LINEAR, set(NAMES) - {name}) for name in NAMES
  ]
  mixed = np.array([alone[m][i] for i, m in enumerate(owner)])
  expected = recorded.cross_entropy(mixed)
  np.testing.assert_allclose(losses['fused'], expected, rtol=1e-5)
  kernels = recorded.kernels(*recorded.LINEAR)
  for m, name in enumerate(NAMES):
    surprise = -np.log(recorded.own(recorded.softmax(own[m])))
    expected = 3 * np.sum(surprise * (owner == m)) / len(owner)
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)
    # The scale of an encoder learns only from its rows.
    head = state.params[f'heads_{name}']['kernel']
    for loss, logits, kernel, factor in (
      ('fused', mixed, kernels[name], 1),
      (name, own[m], head, 3),
    ):
      flow = recorded.residual_of(logits) @ kernel.T * recorded.THREE[name]
      expected = factor * np.sum(flow[owner == m])
      found = recorded.scales(gradients[loss])[m]
      np.testing.assert_allclose(found, expected, rtol=1e-3)
