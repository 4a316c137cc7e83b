"""Masks features without changing shapes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def kept(
  features: Mapping[str, jax.Array], keep: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Features [batch, d_m], with zeros where they are not kept.

  Args:
    features: of each modality.
    keep: of each modality, booleans [batch], or one for all rows.

  Examples:
    >>> features = {'audio': jnp.ones((2, 3)), 'visual': jnp.ones((2, 1))}
    >>> keep = {'audio': jnp.array([True, False]), 'visual': jnp.array(False)}
    >>> found = kept(features, keep)
    >>> found['audio'].tolist(), found['visual'].tolist()
    ([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [[0.0], [0.0]])
  """
  return {
    name: jnp.where(jnp.reshape(keep[name], (-1, 1)), value, 0)
    for name, value in features.items()
  }
