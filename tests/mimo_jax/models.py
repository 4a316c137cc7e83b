"""A late-fusion model, as a function from parameters to losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mimo_jax import nn
from tests import checks

OBJECTIVES = ('fused', 'audio', 'visual')


@functools.cache
def late_fusion(heads):
  """Returns `losses_fn(params) -> (losses, scores)`, and params."""
  labels = jnp.arange(24) % 3
  inputs = {
    'audio': checks.standard_normal(24, 5),
    'visual': np.float32(np.eye(3, 7)[labels])
    + 0.1 * checks.standard_normal(24, 7, seed=1),
  }
  model = nn.LateFusion(
    encoders={'audio': nn.MLP((6, 4)), 'visual': nn.MLP((4,))},
    num_classes=3,
    heads=heads,
  )
  # Keys that are the cheapest to compile.
  key = jax.random.key(1, impl='unsafe_rbg')
  params = jax.jit(model.init)(key, inputs)['params']

  def losses_fn(params):
    logits = model.apply({'params': params}, inputs)
    return (
      nn.cross_entropy_losses(logits, labels),
      nn.true_class_scores(logits, labels),
    )

  return losses_fn, params
