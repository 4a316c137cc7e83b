"""Divergences between two outputs, row by row."""

import jax
import jax.numpy as jnp


def kullback_leibler(given: jax.Array, logits: jax.Array) -> jax.Array:
  """KL(softmax(given) || softmax(logits)) in nats, of [..., C]: [...].

  Examples:
    >>> given, logits = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0]])
    >>> kullback_leibler(given, logits).tolist()
    [0.111]
    >>> kullback_leibler(given, given).tolist()
    [0.0]
  """
  log_given = jax.nn.log_softmax(given)
  apart = log_given - jax.nn.log_softmax(logits)
  return jnp.sum(jnp.exp(log_given) * apart, axis=-1)


def jensen_shannon(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """½ KL(p || m) + ½ KL(q || m), m = ½ (p + q), in nats, of [..., C]: [...].

  p and q are the probabilities that the logits give.

  Examples:
    >>> sure, unsure = jnp.array([[70.0, 0.0]]), jnp.array([[1.0, 1.0]])
    >>> jensen_shannon(sure, unsure).tolist()
    [0.216]
    >>> jensen_shannon(sure, sure).tolist()
    [0.0]
  """
  log_p, log_q = jax.nn.log_softmax(ours), jax.nn.log_softmax(theirs)
  log_middle = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
  of_p = jnp.exp(log_p) * (log_p - log_middle)
  of_q = jnp.exp(log_q) * (log_q - log_middle)
  return jnp.sum(of_p + of_q, axis=-1) / 2


def squared_difference(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """The squared difference of a regression's numbers, of [..., 1]: [...].

  Examples:
    >>> squared_difference(jnp.array([[1.0]]), jnp.array([[-2.0]])).tolist()
    [9.0]
  """
  return (ours[..., 0] - theirs[..., 0]) ** 2
