"""MLA: what a phase touches, and which features it can take."""

import chex
import jax
import numpy as np
import pytest

from experiments.methods import mla
from mimo_jax import nn
from tests.experiments.methods import recorded

VISUAL = 1  # the phase


def begin(**model):
  """On encoders with batch statistics: method, state, batch."""
  method = mla.make(recorded.make_task(encoder=recorded.Normalised, **model))
  return method, *recorded.begin(method)


def test_in_a_phase_statistics_of_the_others_stand_still():
  method, state, batch = begin()
  losses, seen = recorded.losses_of(method, state, batch, VISUAL)
  assert set(losses) == {'shared_visual', 'visual', 'fused'}
  before, after = state.model_state['batch_stats'], seen.model_state
  after = after['batch_stats']
  chex.assert_trees_all_equal(after['encoders_audio'], before['encoders_audio'])
  dense = state.params['encoders_visual']['Dense_0']
  hidden = batch['visual'] @ np.asarray(dense['kernel'])  # the bias is 0
  statistics = after['encoders_visual']['BatchNorm_0']
  np.testing.assert_allclose(
    statistics['mean'], 0.5 * np.mean(hidden, axis=0), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    statistics['var'], 0.5 + 0.5 * np.var(hidden, axis=0), rtol=1e-4
  )


def test_without_auxiliary_heads_a_modality_is_read_by_the_shared_one():
  for heads in ('share', 'shapley'):
    method, state, batch = begin(heads=heads)
    assert set(state.params) == {'encoders_audio', 'encoders_visual', 'fusion'}
    losses, _, gradient = recorded.gradient_of(
      'visual', method, state, batch, VISUAL
    )
    assert losses['visual'] == losses['shared_visual'] > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_features_of_one_width_are_needed():
  encoders = {'audio': nn.MLP((4,)), 'visual': nn.MLP((5,))}
  with pytest.raises(ValueError, match='expected one width'):
    begin(encoders=encoders)
