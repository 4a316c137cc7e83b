"""MMPareto, OGM and OGM-GE in a chain, on a late-fusion model."""

import jax
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import models

MODALITIES = ('audio', 'visual')


def step_of(heads, optimizer, traces):
  """Makes a step that returns the updates without applying them."""
  losses_and_scores, _ = models.late_fusion(heads)

  @jax.jit
  def step(params, state):
    traces.append(1)
    losses, pullback, scores = jax.vjp(losses_and_scores, params, has_aux=True)
    updates, state = optimizer.update(
      pullback, state, params, losses=losses, scores=scores
    )
    return updates, state, losses, scores

  return step


@pytest.mark.slow
def test_chains_trace_once_and_train():
  for name, heads, transformation in (
    (
      'mmpareto',
      'auxiliary',
      mimo_jax.mmpareto(nn.encoder_of, models.OBJECTIVES),
    ),
    (
      'ogm_ge',
      'share',
      optax.chain(
        mimo_jax.balance(weightings.fused_only()),
        mimo_jax.ogm_ge(nn.encoder_of, MODALITIES),
      ),
    ),
  ):
    optimizer = optax.chain(
      transformation, optax.clip_by_global_norm(5.0), optax.adam(3e-2)
    )
    _, params = models.late_fusion(heads)
    traces, history, keys = [], [], set()
    step, state = step_of(heads, optimizer, traces), optimizer.init(params)
    first = checks.types_of(state)
    for _ in range(30):
      if name == 'ogm_ge':
        key = jax.random.key_data(optax.tree.get(state, 'key'))
        keys.add(tuple(key.tolist()))
      updates, state, losses, _ = step(params, state)
      params = optax.apply_updates(params, updates)
      history.append(losses)
    assert len(traces) == 1, name
    assert checks.types_of(state) == first, name
    trained = models.OBJECTIVES if name == 'mmpareto' else ('fused',)
    for output in trained:
      assert history[-1][output] < 0.9 * history[0][output], (name, output)
    if name == 'ogm_ge':
      # New noise at each step.
      assert len(keys) == 30
    else:
      assert optax.tree.get(state, 'weights').shape == (3,)


@pytest.mark.slow
def test_the_fused_gradient_of_a_late_fusion_model_is_modulated():
  losses_and_scores, params = models.late_fusion('share')
  optimizer = optax.chain(
    mimo_jax.balance(weightings.fused_only()),
    mimo_jax.ogm(nn.encoder_of, MODALITIES, alpha=0.8),
  )
  updates, state, _, scores = step_of('share', optimizer, [])(
    params, optimizer.init(params)
  )
  gradient = jax.jit(jax.grad(lambda p: losses_and_scores(p)[0]['fused']))(
    params
  )
  ratio = scores['audio'] / scores['visual']
  found = [1 - np.tanh(0.8 * r) if r > 1 else 1 for r in (ratio, 1 / ratio)]
  np.testing.assert_allclose(
    optax.tree.get(state, 'coefficients'), found, rtol=1e-5
  )
  assert min(found) < 0.5 and max(found) == 1
  for name, k in zip(MODALITIES, found, strict=True):
    gradient[f'encoders_{name}'] = jax.tree.map(
      lambda leaf, k=k: leaf * (k if leaf.ndim > 1 else 1),
      gradient[f'encoders_{name}'],
    )
  checks.assert_close(updates, gradient, 1e-4, 1e-7)
