"""A network that reconstructs features from the fused logits."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import common
from experiments.methods import copies
from mimo_jax import nn

Network = dict[str, jax.Array]  # 'hidden' [C, d] and 'features' [d, Σ d_m]


def beside(
  model: nn.LateFusion,
) -> Callable[[base.TrainState, base.Batch], Network]:
  """A function that draws the network of `loss`, for `base.Method.beside`.

  Its d is the width of the widest features. As in other dense layers, the
  variance of a kernel is one over the number of its inputs.
  """
  features_of = functools.partial(common.features_of, model)
  draw = jax.nn.initializers.lecun_normal()

  def network(state: base.TrainState, batch: base.Batch) -> Network:
    found = jax.eval_shape(features_of, state.variables, batch)
    widths = [features.shape[-1] for features in found.values()]
    first, second = jax.random.split(copies.key_of(state, 0))
    return {
      'hidden': draw(first, (model.num_classes, max(widths))),
      'features': draw(second, (max(widths), sum(widths))),
    }

  return network


def loss(network: Network, outputs: common.Outputs) -> jax.Array:
  """The error of the features' reconstruction from the fused logits.

      mean over rows and entries of (z - h(sg o))²,  h(o) = relu(o A) B

  with z the features of all modalities, side by side in the order of their
  names. It has a gradient through features and h, and none through the logits.

  Args:
    network: A and B, [C, d] and [d, Σ d_m].
    outputs: features z_m [batch, d_m], and fused logits o [batch, C].

  Examples:
    >>> network = {'hidden': jnp.eye(2), 'features': jnp.eye(2)}
    >>> features = {'visual': jnp.zeros((1, 1)), 'audio': jnp.ones((1, 1))}
    >>> logits = {'fused': jnp.array([[3.0, -5.0]])}  # relu: 3 and 0
    >>> float(loss(network, common.Outputs(logits, features, {})))
    2.0
  """
  names = sorted(outputs.features)
  whole = jnp.concatenate([outputs.features[name] for name in names], axis=1)
  logits = lax.stop_gradient(outputs.logits['fused'])
  found = jax.nn.relu(logits @ network['hidden']) @ network['features']
  return jnp.mean((whole - found) ** 2)
