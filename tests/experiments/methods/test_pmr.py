"""PMR: prototypes, the loss of distances to them, and its weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import pmr
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

FEATURES = recorded.FEATURES
PROTOTYPES = recorded.REFERENCE['prototypes']
CENTERS = {name: jnp.float32(value) for name, value in PROTOTYPES.items()}


def test_the_loss_equals_the_authors_on_recorded_prototypes():
  of_reference = recorded.REFERENCE['pmr']
  method, state, batch = recorded.begun(pmr, alpha=of_reference['alpha'])
  loss_of, seen = recorded.compiled(pmr.prototype_loss), np.ones(4, bool)
  for name, centers in CENTERS.items():
    loss, score = loss_of(batch[name], centers, seen, batch['label'])
    checks.assert_close(loss, of_reference['proto_losses'][name])
    checks.assert_close(6 * score, of_reference['proto_scores'][name])

  state = state._replace(memory=pmr.Prototypes(CENTERS, seen))
  losses, _, gradients = recorded.learn(method, state, batch)
  total = losses['prototypes'] + losses['fused']
  checks.assert_close(total, of_reference['total_loss'])
  # Only the slow encoder gets a gradient from it.
  found = gradients['prototypes']
  assert found.pop('encoders_audio')['scale'] != 0
  assert not np.any(checks.flat(found))


def test_only_the_slower_of_two_modalities_has_a_weight():
  alpha = 0.7
  coefficients = recorded.compiled(pmr.coefficients, static_argnums=2)
  for slow, ratio in ((0, 1.0), (0, 1.3), (1, 1.3), (0, 4.0), (1, 4.0)):
    scores = np.full(2, 0.6)
    scores[slow] /= ratio
    switch = coefficients(scores, alpha, 'switch')
    clipped = coefficients(scores, alpha, 'clipped')
    assert switch[1 - slow] == clipped[1 - slow] == 0
    checks.assert_close(switch[slow], alpha * (ratio > 1))
    checks.assert_close(clipped[slow], alpha * np.clip(ratio - 1, 0, 1))
  scores = np.array([0.5, 0.4, 0.1])  # the best one is compared with all
  for rule, expected in (
    ('switch', [0, 0.6, 0.6]),
    ('clipped', [0, 0.15, 0.6]),
  ):
    checks.assert_close(coefficients(scores, 0.6, rule), np.array(expected))


def test_prototypes_are_means_of_seen_features_and_old_prototypes():
  method, state, batch = recorded.begun(pmr, momentum=0.3)
  (walk,) = method.rehearsal.passes
  begin, step, end = map(
    recorded.compiled,
    (method.rehearsal.begin, walk.step, method.rehearsal.end),
  )

  def rehearse(state, labels, scale):
    sums = begin(state, batch)
    for rows in (slice(0, 4), slice(4, 6)):
      part = {name: scale * batch[name][rows] for name in FEATURES}
      part['label'] = np.array(labels[rows])
      sums = step(state, sums, part)
    return end(state, sums)

  def mean(name, label, labels):
    return FEATURES[name][np.array(labels) == label].mean(0)

  first_labels, second_labels = [0, 1, 1, 1, 0, 0], [1, 2, 2, 1, 1, 2]
  first = rehearse(state, first_labels, 1).memory
  second = rehearse(state._replace(memory=first), second_labels, 2).memory
  assert first.seen.tolist() == [True, True, False, False]
  assert second.seen.tolist() == [True, True, True, False]
  for name in FEATURES:
    old, new = first.centers[name], second.centers[name]
    for label in (0, 1):
      checks.assert_close(old[label], mean(name, label, first_labels))
    checks.assert_equal(new[0], old[0])
    mixed = 0.7 * 2 * mean(name, 1, second_labels)
    mixed += 0.3 * mean(name, 1, first_labels)
    checks.assert_close(new[1], mixed, rtol=1e-4)
    checks.assert_close(new[2], 2 * mean(name, 2, second_labels))


def test_classes_without_a_prototype_are_left_out():
  centers = np.array(CENTERS['audio'])
  features, labels = FEATURES['audio'], recorded.LABELS
  centers[0] = features[0]  # at a distance of zero
  loss_and_gradient = jax.jit(
    jax.value_and_grad(pmr.prototype_loss, has_aux=True)
  )
  for seen in ([1, 1, 0, 1], [0, 0, 0, 0]):
    seen = np.array(seen, bool)
    (loss, score), gradient = loss_and_gradient(
      jnp.float32(features), centers, seen, labels
    )
    chex.assert_tree_all_finite((loss, gradient))
    rows = seen[labels]
    assert np.array_equal(np.any(gradient != 0, axis=1), rows)
    if not seen.any():
      assert loss == score == 0
      continue
    distances = np.linalg.norm(features[:, None] - centers, axis=-1)
    logits = np.where(seen, -distances, -np.inf)
    right = recorded.own(recorded.softmax(logits))[rows]
    checks.assert_close(loss, -np.log(right).mean())
    checks.assert_close(score, right.mean())
