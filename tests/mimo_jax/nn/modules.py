"""Fusions and models without zeros in their variables, and layers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mimo_jax import nn
from tests import checks

CLASSES, BATCH = 5, 11
# Unsorted, and of different widths.
WIDTHS = {'visual': 4, 'audio': 3, 'text': 6}
ALL, TWO = tuple(WIDTHS), ('visual', 'audio')
FUSIONS = {
  'concat': nn.ConcatFusion,
  'hidden': functools.partial(nn.ConcatFusion, hidden_widths=(7, 6)),
  'sum': nn.SumFusion,
  'cosine': functools.partial(nn.CosineFusion, scale=4.0),
  'film': nn.FiLMFusion,
  'gated': functools.partial(nn.GatedFusion, width=8),
}
ANY_NUMBER = ('concat', 'hidden', 'sum', 'cosine')
rows = checks.standard_normal


def names_for(fusion):
  return ALL if fusion in ANY_NUMBER else TWO


def features_of(names=ALL):
  return {
    name: rows(BATCH, WIDTHS[name], seed=i) for i, name in enumerate(names)
  }


def batch_of(names=ALL):
  """Makes inputs of different widths."""
  return {name: rows(BATCH, 2 + i, seed=10 + i) for i, name in enumerate(names)}


def model_of(fusion='concat', names=ALL, **settings):
  encoders = {name: nn.MLP((9, WIDTHS[name])) for name in names}
  return nn.LateFusion(encoders, CLASSES, FUSIONS[fusion], **settings)


def variables_of(module, inputs):
  """Draws normal variables, faster than by init."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
  leaves, structure = jax.tree.flatten(shapes)
  return jax.tree.unflatten(
    structure,
    [jnp.asarray(rows(*x.shape, seed=3 + i)) for i, x in enumerate(leaves)],
  )


def wide(value):
  return np.asarray(value, np.float64)


def dense(layer, value):
  return wide(value) @ wide(layer['kernel']) + wide(layer['bias'])


def close(actual, expected, name=''):
  checks.assert_close(actual, expected, 1e-4, 1e-4, name)
