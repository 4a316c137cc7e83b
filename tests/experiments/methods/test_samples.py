"""Random samples of a stream of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import samples

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('rows', [4, 30])
def test_a_sample_is_random_rows_or_all_of_them(rows):
  generator = np.random.default_rng(0)
  features = generator.standard_normal((5, 3, 2)).astype(np.float32)
  labels = np.arange(15).reshape(5, 3)
  real = np.ones((5, 3), bool)
  real[4, 1:] = False  # the last batch is padded
  chosen = np.zeros(15)
  for seed in range(60):
    key = jax.random.key(seed)
    sample = samples.begin(rows, {'a': features[0]})
    for i in range(5):
      sample = added(
        key, sample, {'a': features[i]}, jnp.asarray(labels[i]), real[i]
      )
    is_row = np.asarray(sample.is_row)
    assert is_row.sum() == min(rows, 13)
    found = np.asarray(sample.labels)[is_row]
    assert len(set(found)) == len(found)
    whole = features.reshape(15, 2)
    np.testing.assert_array_equal(sample.features['a'][is_row], whole[found])
    chosen[found] += 1
  assert not np.any(chosen[13:])
  if rows == 4:  # each as likely as the others: 60 * 4 / 13 times
    assert chosen[:13].min() > 8
    assert chosen[:13].max() < 32


added = jax.jit(samples.added)
