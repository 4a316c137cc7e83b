"""Clusters and their purity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import cluster

from experiments.methods import clusters
from tests.experiments.methods import recorded

# Without jit, each operation would be compiled.
k_means = recorded.compiled(clusters.k_means, static_argnums=3)
class_purity = recorded.compiled(clusters.class_purity, static_argnums=4)


def inertia(points, assigned, number):
  return sum(
    np.sum((members - members.mean(0)) ** 2)
    for k in range(number)
    if len(members := points[assigned == k])
  )


def test_clusters_are_as_good_as_those_of_scikit_learn():
  generator = np.random.default_rng(0)
  number = 5
  for spread in (0.1, 2.0, 9.0):
    centers = 3 * generator.standard_normal((number, 4))
    centers[0] = 0  # the place of centres that are not drawn yet
    points = np.concatenate(
      [c + spread * generator.standard_normal((25, 4)) for c in centers]
    ).astype(np.float32)
    # Masked points, far away.
    padded = np.concatenate([points, np.full((30, 4), 50, np.float32)])
    counts = np.arange(len(padded)) < len(points)
    found = k_means(
      jax.random.key(5), jnp.asarray(padded), jnp.asarray(counts), number
    )
    assert found.shape == (len(padded),)
    best = (
      cluster.KMeans(number, n_init=10, random_state=0).fit(points).inertia_
    )
    ours = inertia(points, np.asarray(found)[: len(points)], number)
    assert ours < 1.03 * best


@pytest.mark.quick
def test_with_fewer_points_than_clusters_results_are_finite():
  points = np.array([[1.0], [5.0], [5.0]])
  found = k_means(jax.random.key(0), points, np.ones(3, bool), 4)
  assert found[0] != found[1] == found[2]
  alone = k_means(jax.random.key(0), points, np.zeros(3, bool), 4)
  assert alone.shape == (3,)
  nothing = class_purity(
    jax.random.key(0), points, np.zeros(3, int), np.zeros(3, bool), 4
  )
  assert nothing == 0


def test_purity_does_not_depend_on_the_units_of_features():
  labels = np.array([0, 1, 0, 1, 1, 0])
  # The feature that tells classes apart is much smaller than the others.
  points = np.stack([0.01 * labels, [80, 60, 70, 90, 50, 95]], axis=1)
  points = np.float32(np.concatenate([points, [[500.0, 500.0]]]))
  labels, counts = np.append(labels, 0), np.arange(7) < 6
  assert class_purity(jax.random.key(0), points, labels, counts, 2) == 1
