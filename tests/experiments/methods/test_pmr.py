"""PMR: prototypes, the loss of distances from them, and its weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import pmr
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

FEATURES = recorded.FEATURES
CENTERS = {
  name: jnp.float32(value)
  for name, value in recorded.REFERENCE['prototypes'].items()
}


def test_it_is_the_authors_loss_on_recorded_prototypes():
  of_reference = recorded.REFERENCE['pmr']
  method = pmr.make(recorded.make_task(), alpha=of_reference['alpha'])
  state, batch = recorded.begin(method)
  seen = jnp.ones(4, bool)
  for name, centers in CENTERS.items():
    loss, score = pmr.prototype_loss(batch[name], centers, seen, batch['label'])
    np.testing.assert_allclose(loss, of_reference['proto_losses'][name], 1e-5)
    np.testing.assert_allclose(
      6 * score, of_reference['proto_scores'][name], 1e-5
    )

  state = state._replace(memory=pmr.Prototypes(CENTERS, seen))
  losses, _, found = recorded.gradient_of('prototypes', method, state, batch)
  np.testing.assert_allclose(
    losses['prototypes'] + losses['fused'], of_reference['total_loss'], 1e-5
  )
  # Only the slow encoder has a gradient of it.
  assert found['encoders_audio']['scale'] != 0
  found['encoders_audio'] = found['encoders_visual']
  chex.assert_trees_all_equal(found, jax.tree.map(jnp.zeros_like, found))


def test_the_slow_one_of_two_modalities_has_a_weight():
  alpha = 0.7
  for slow, ratio in ((0, 1.0), (0, 1.3), (1, 1.3), (0, 4.0), (1, 4.0)):
    scores = jnp.array([0.6, 0.6]).at[slow].divide(ratio)
    switch = pmr.coefficients(scores, alpha, 'switch')
    clipped = pmr.coefficients(scores, alpha, 'clipped')
    assert switch[1 - slow] == clipped[1 - slow] == 0
    np.testing.assert_allclose(switch[slow], alpha * (ratio > 1), 1e-6)
    np.testing.assert_allclose(
      clipped[slow], alpha * np.clip(ratio - 1, 0, 1), rtol=1e-5, atol=1e-6
    )


def test_prototypes_are_means_of_what_was_seen_and_the_old_ones():
  method = pmr.make(recorded.make_task(), momentum=0.3)
  state, batch = recorded.begin(method)
  (walk,) = method.rehearsal.passes

  def rehearse(state, labels, scale):
    sums = method.rehearsal.begin(state, batch)
    for rows in (slice(0, 4), slice(4, 6)):
      part = {name: scale * batch[name][rows] for name in FEATURES}
      part['label'] = jnp.asarray(labels[rows])
      sums = walk.step(state, sums, part)
    return method.rehearsal.end(state, sums)

  def mean(name, label, labels):
    return FEATURES[name][np.array(labels) == label].mean(0)

  first_labels, second_labels = [0, 1, 1, 1, 0, 0], [1, 2, 2, 1, 1, 2]
  first = rehearse(state, first_labels, 1)
  second = rehearse(first, second_labels, 2)
  assert first.memory.seen.tolist() == [True, True, False, False]
  assert second.memory.seen.tolist() == [True, True, True, False]
  for name in FEATURES:
    old, new = (one.memory.centers[name] for one in (first, second))
    for label in (0, 1):
      np.testing.assert_allclose(
        old[label], mean(name, label, first_labels), rtol=1e-5
      )
    np.testing.assert_array_equal(new[0], old[0])
    mixed = 0.7 * 2 * mean(name, 1, second_labels)
    mixed += 0.3 * mean(name, 1, first_labels)
    np.testing.assert_allclose(new[1], mixed, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
      new[2], 2 * mean(name, 2, second_labels), rtol=1e-5
    )


def test_classes_without_a_prototype_are_left_out():
  centers = np.array(CENTERS['audio'])
  centers[0] = FEATURES['audio'][0]  # at a distance of zero
  loss_and_gradient = jax.jit(
    jax.value_and_grad(
      lambda features, seen: pmr.prototype_loss(
        features, jnp.asarray(centers), seen, jnp.asarray(recorded.LABELS)
      ),
      has_aux=True,
    )
  )
  for seen in ([1, 1, 0, 1], [0, 0, 0, 0]):
    seen = np.array(seen, bool)
    (loss, score), gradient = loss_and_gradient(
      jnp.float32(FEATURES['audio']), seen
    )
    chex.assert_tree_all_finite((loss, gradient))
    rows = seen[recorded.LABELS]
    assert np.array_equal(np.any(gradient != 0, axis=1), rows)
    if not seen.any():
      assert loss == score == 0
      continue
    distances = np.linalg.norm(FEATURES['audio'][:, None] - centers, axis=-1)
    logits = np.where(seen, -distances, -np.inf)
    right = recorded.own(recorded.softmax(logits))[rows]
    np.testing.assert_allclose(loss, -np.log(right).mean(), rtol=1e-5)
    np.testing.assert_allclose(score, right.mean(), rtol=1e-5)
