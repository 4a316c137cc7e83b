"""Losses that align the modalities."""

import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import checks
from experiments.methods import means


def contrastive(
  features: Mapping[str, jax.Array], temperature: float
) -> jax.Array:
  """The contrastive loss of the modalities' features [batch, d].

  It says how hard it is to tell which features of two modalities are of the
  same row: the mean, over all ordered pairs of modalities and over rows i, of
  the cross entropy of softmax(cos(z_i, z'_j) / τ) over j, where i is true.

  Examples:
    >>> features = {'audio': jnp.eye(2), 'visual': jnp.eye(2)}
    >>> float(contrastive(features, 0.1))  # log(1 + exp(-10))
    4.54e-05
  """
  method = "lfm with alignment='contrastive'"
  checks.one_width(method, features, ", or choose alignment='js'")

  def unit(value: jax.Array) -> jax.Array:
    squared = jnp.sum(value**2, axis=1, keepdims=True)
    return value * lax.rsqrt(jnp.maximum(squared, 1e-12))

  losses = []
  for one, other in itertools.permutations(sorted(features), 2):
    cosines = unit(features[one]) @ unit(features[other]).T
    log_shares = jax.nn.log_softmax(cosines / temperature)
    losses.append(-jnp.mean(jnp.diagonal(log_shares)))
  return jnp.mean(jnp.stack(losses))


def supervised_contrastive(
  features: jax.Array, labels: jax.Array, temperature: float
) -> jax.Array:
  """The supervised contrastive loss (NT-Xent) of features of all modalities.

      -mean_i mean_{p: y_p = y_i} log( exp(s_ip/τ) / Σ_{a≠i} exp(s_ia/τ) )

  with cosines s of the M N features, and p ≠ i.

  Args:
    features: [M, N, d].
    labels: [N], classes or numbers.
    temperature: τ.

  Examples:
    >>> features = jnp.array([[[1.0, 0.0], [0.0, 2.0]]] * 2)
    >>> float(supervised_contrastive(features, jnp.array([0, 1]), 0.5))
    0.239
  """
  count, rows, width = features.shape
  flat = features.reshape(count * rows, width)
  squares = jnp.sum(flat**2, axis=1, keepdims=True)
  # All cosines of a row of zeros are 0, and it has no gradient.
  is_zero = squares == 0
  length = jnp.sqrt(jnp.where(is_zero, 1, squares))
  flat = jnp.where(is_zero, 0, flat / length)
  is_self = jnp.eye(count * rows, dtype=bool)
  scores = jnp.where(is_self, -jnp.inf, flat @ flat.T / temperature)
  labels = jnp.tile(labels, count)
  is_positive = (labels[:, None] == labels[None]) & ~is_self
  log_shares = jax.nn.log_softmax(scores, axis=1)
  return -jnp.mean(means.of(log_shares, is_positive, axis=1))


def jensen_shannon(logits: jax.Array, *, swapped: bool = False) -> jax.Array:
  """The divergence of M outputs [M, batch, C] from their mean, in nats.

  It is the mean over rows of (1/M) Σ_m KL(p_m ‖ mean of all p), from 0 to
  log M; with swapped arguments, KL(mean of all p ‖ p_m), which has no bound.

  Examples:
    >>> certain = 50 * jnp.eye(2)[:, None]  # of one class, and of the other
    >>> float(jensen_shannon(certain)), float(jensen_shannon(certain[:1]))
    (0.693, 0.0)
  """
  own = jax.nn.log_softmax(logits)
  mean = jax.nn.logsumexp(own, axis=0, keepdims=True) - jnp.log(len(own))
  of, to = (mean, own) if swapped else (own, mean)
  divergences = jnp.sum(jnp.exp(of) * (of - to), axis=-1)
  return jnp.mean(divergences)
