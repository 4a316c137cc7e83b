"""MLA: what a phase changes, and which features it accepts."""

import chex
import numpy as np

from experiments.methods import mla
from tests import checks
from tests.experiments.methods import recorded

VISUAL = 1  # the phase


def begin(**model):
  """Method, state and batch, on encoders with batch statistics."""
  method = mla.make(recorded.make_task(encoder=recorded.Normalised, **model))
  return method, *recorded.begin(method)


def test_in_a_phase_statistics_of_other_encoders_do_not_change():
  method, state, batch = begin()
  losses, seen = recorded.losses_of(method, state, batch, VISUAL)
  assert set(losses) == {'shared_visual', 'visual', 'fused'}
  before, after = (one.model_state['batch_stats'] for one in (state, seen))
  chex.assert_trees_all_equal(after['encoders_audio'], before['encoders_audio'])
  dense = state.params['encoders_visual']['Dense_0']
  hidden = batch['visual'] @ np.asarray(dense['kernel'])  # the bias is 0
  mean, var = 0.5 * np.mean(hidden, axis=0), 0.5 + 0.5 * np.var(hidden, axis=0)
  statistics = {'BatchNorm_0': {'mean': mean, 'var': var}}
  checks.assert_close(after['encoders_visual'], statistics, 1e-4, atol=1e-5)


def test_without_auxiliary_heads_uni_modal_outputs_use_the_shared_head():
  for heads in ('share', 'shapley'):
    method, state, batch = begin(heads=heads)
    assert set(state.params) == {'encoders_audio', 'encoders_visual', 'fusion'}
    losses, _, gradients = recorded.learn(method, state, batch, VISUAL)
    assert losses['visual'] == losses['shared_visual'] > 0
    assert not recorded.learns(gradients['visual'])
