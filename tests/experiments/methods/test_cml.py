"""CML: which modality is removed, and the penalty on rising confidence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import cml
from experiments.methods import common
from tests.experiments.methods import recorded


def removal(method, steps=60):
  """Returns losses of many steps from the same parameters, [steps] each."""
  state, batch = recorded.begin(method)

  def losses(step):
    return method.losses(state._replace(step=step), batch, state.key, None)[0]

  return recorded.compiled(jax.vmap(losses))(jnp.arange(steps))


@pytest.mark.parametrize(
  'released',
  ['balance_benchmark', pytest.param(None, marks=pytest.mark.quick)],
)
def test_the_loss_equals_the_recorded_one_where_visual_is_removed(released):
  of_reference = recorded.REFERENCE['cml']
  task = recorded.make_task()
  method = cml.make(task, strength=of_reference['lam'], released=released)
  losses = removal(method)
  total = common.joined(method.primary, losses)['fused']
  name = 'loss_as_coded' if released else 'loss_per_sample_hinge'
  found = np.isclose(total, of_reference[name], rtol=1e-5)
  assert 0.2 < found.mean() < 0.8
  # In the other steps audio was removed.
  partial = recorded.cross_entropy(recorded.logits_of(removed=('audio',)))
  np.testing.assert_allclose(losses['partial'][~found], partial / 2, rtol=1e-5)


@pytest.mark.parametrize('released', [None, 'balance_benchmark'])
def test_three_modalities_are_removed_in_every_order(released):
  task = recorded.make_task(recorded.THREE)
  losses = removal(cml.make(task, strength=0.5, released=released))
  found = np.stack([losses['partial'], losses['rise']], axis=1)
  expected = []
  for order in itertools.permutations(recorded.THREE, 2):
    before = recorded.softmax(recorded.logits_of(*recorded.LINEAR)).max(1)
    partial = rise = 0.0
    for removed in (order[:1], order):
      logits = recorded.logits_of(*recorded.LINEAR, removed)
      partial += recorded.cross_entropy(logits) / 3
      after = recorded.softmax(logits).max(1)
      gained, before = after - before, after
      gained = gained.sum() if released else gained
      rise += 0.5 * np.maximum(gained, 0).sum()
    expected.append((partial, rise))
  is_order = np.isclose(found[:, None], expected, rtol=1e-4, atol=1e-6).all(-1)
  assert np.all(is_order.sum(1) == 1)
  assert np.all(is_order.sum(0) > 0)
