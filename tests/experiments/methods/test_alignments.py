"""Losses that draw the modalities together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import alignments

pytestmark = pytest.mark.quick


# Without jit, each operation would be compiled.
loss = jax.jit(alignments.supervised_contrastive)


def test_rows_of_one_class_attract_each_other():
  generator = np.random.default_rng(0)
  features = generator.standard_normal((2, 4, 3))
  labels = np.array([0, 1, 0, 2])
  flat = features.reshape(8, 3)
  unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
  scores = np.exp(unit @ unit.T / 0.3)
  total = 0.0
  for i in range(8):
    others = [j for j in range(8) if j != i]
    same = [j for j in others if labels[j % 4] == labels[i % 4]]
    share = scores[i] / scores[i, others].sum()
    total -= np.mean(np.log(share[same])) / 8
  found = loss(jnp.asarray(features), jnp.asarray(labels), 0.3)
  np.testing.assert_allclose(found, total, rtol=1e-5)
  zero = jnp.zeros((2, 4, 3)).at[0, 0].set(1.0)
  gradient = jax.jit(jax.grad(loss))(zero, jnp.asarray(labels), 0.3)
  assert np.all(np.isfinite(gradient))
