"""CML: what is removed, and how rising confidence is punished."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.methods import cml
from tests.experiments.methods import recorded


def removal(method, *linear, steps=60):
  """The losses of many steps from the same parameters, each [steps]."""
  state, batch = recorded.begin(method, *linear)
  losses = recorded.compiled(
    jax.vmap(
      lambda step: method.losses(
        state._replace(step=step), batch, state.key, None
      )[0]
    )
  )
  return losses(jnp.arange(steps))


@pytest.mark.parametrize(
  'hinge', ['batch', pytest.param('sample', marks=pytest.mark.quick)]
)
def test_it_is_the_recorded_loss_where_visual_is_removed(hinge):
  of_reference = recorded.REFERENCE['cml']
  method = cml.make(
    recorded.make_task(), strength=of_reference['lam'], hinge=hinge
  )
  losses = removal(method)
  _, opt_state = recorded.update_of(method, *recorded.begin(method))
  weights = dict(
    zip(method.objectives, optax.tree.get(opt_state, 'weights'), strict=True)
  )
  assert weights['audio'] == weights['visual'] == 1  # heads that are read only
  total = sum(
    weights[name] * losses[name] for name in ('fused', 'partial', 'rise')
  )
  expected = {
    'batch': of_reference['loss_as_coded'],
    'sample': of_reference['loss_per_sample_hinge'],
  }[hinge]
  found = np.isclose(total, expected, rtol=1e-5)
  assert 0.2 < found.mean() < 0.8
  # In the other steps audio was removed.
  partial = recorded.cross_entropy(recorded.logits_of(removed=('audio',)))
  np.testing.assert_allclose(losses['partial'][~found], partial / 2, rtol=1e-5)


@pytest.mark.parametrize('hinge', ['sample', 'batch'])
def test_three_modalities_are_removed_in_every_order(hinge):
  linear = recorded.THREE, recorded.THREE_KERNEL
  method = cml.make(
    recorded.make_task(recorded.THREE), strength=0.5, hinge=hinge
  )
  losses = removal(method, *linear)
  found = np.stack([losses['partial'], losses['rise']], axis=1)
  expected = []
  for order in itertools.permutations(recorded.THREE, 2):
    before = recorded.softmax(recorded.logits_of(*linear)).max(1)
    partial = rise = 0.0
    for removed in (order[:1], order):
      logits = recorded.logits_of(*linear, removed)
      partial += recorded.cross_entropy(logits) / 3
      after = recorded.softmax(logits).max(1)
      rise += (
        np.maximum(after - before, 0).sum()
        if hinge == 'sample'
        else np.maximum((after - before).sum(), 0)
      )
      before = after
    expected.append((partial, 0.5 * rise))
  is_order = np.isclose(found[:, None], expected, rtol=1e-4, atol=1e-6).all(-1)
  assert np.all(is_order.sum(1) == 1)
  assert np.all(is_order.sum(0) > 0)
