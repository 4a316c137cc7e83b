"""SMV: values of modalities, and repeating rows by them."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import smv
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def right(features, kernel, kept):
  removed = [name for name in features if name not in kept]
  logits = recorded.logits_of(features, kernel, removed)
  return logits.argmax(1) == recorded.LABELS


def values_of(features, kernel):
  """Computes values over all orders of joining, row by row: [M, 6]."""
  names = sorted(features)
  total = np.zeros((len(names), 6))
  for order in itertools.permutations(names):
    for i, name in enumerate(order):
      before = i * right(features, kernel, order[:i]) if i else np.zeros(6)
      after = (i + 1) * right(features, kernel, order[: i + 1])
      total[names.index(name)] += after - before
  return total / math.factorial(len(names))


def test_rows_are_repeated_by_the_value_of_a_modality_for_them():
  features, kernel = recorded.THREE, recorded.THREE_KERNEL
  method, state, batch = recorded.begun(
    smv, recorded.make_task(features), warm_up_epochs=1.0
  )
  values = values_of(features, kernel)
  number = (values <= 0.9) * 1 + (values <= 0.4) + (values <= -0.1)
  assert len(np.unique(number)) > 2
  whole = recorded.logits_of(features, kernel)
  expected, weight = -np.log(recorded.own(recorded.softmax(whole))).sum(), 6.0
  # The gradient with respect to the logits.
  fused = expected / 6
  for i, name in enumerate(sorted(features)):
    removed = [k for k in features if k != name]
    logits = recorded.logits_of(features, kernel, removed)
    losses = -np.log(recorded.own(recorded.softmax(logits)))
    expected += number[i] @ losses
    weight += number[i].sum()
  for step, loss in ((9, fused), (10, expected / weight)):
    now = recorded.at_step(state, step)
    losses, seen, gradients = recorded.learn(method, now, batch)
    np.testing.assert_allclose(losses['valued'], loss, rtol=1e-5)
    np.testing.assert_allclose(losses['fused'], fused, rtol=1e-5)
  np.testing.assert_allclose(seen.memory.running, values.mean(1), rtol=1e-5)
  # All of it belongs to the primary objective.
  update, _ = recorded.update_of(method, now, batch)
  scale, valued, fused = (
    recorded.scales(one)[0]
    for one in (update, gradients['valued'], gradients['fused'])
  )
  np.testing.assert_allclose(scale, valued, rtol=1e-5)
  assert abs(scale - fused) > 1e-4
  assert set(losses) == {'fused', 'valued', *features}


def test_at_modality_level_the_modality_of_least_value_is_repeated():
  method, state, batch = recorded.begun(
    smv, level='modality', warm_up_epochs=0.0, strength=0.8
  )
  means = smv.Values(jnp.array([0.9, 0.3]), jnp.array([2.0, 7.0]))
  whole = recorded.cross_entropy(recorded.logits_of())
  for step, last in ((13, [0.9, 0.3]), (20, [0.2, 0.7]), (0, [0.0, 0.0])):
    now = state._replace(step=jnp.int32(step), memory=means)
    losses, seen = recorded.losses_of(method, now, batch)
    np.testing.assert_allclose(seen.memory.last, last, rtol=1e-6)
    share = 2 / 3 * 0.8 * abs(last[0] - last[1])
    removed = ('audio',) if last[0] > last[1] else ('visual',)
    alone = recorded.cross_entropy(recorded.logits_of(removed=removed))
    loss = (whole + share * alone) / (1 + share)
    np.testing.assert_allclose(losses['valued'], loss, rtol=1e-5)
    is_first = step % 10 == 0
    running = np.array([0.0, 0.0]) if is_first else np.array([2.0, 7.0])
    of_batch = values_of(recorded.FEATURES, recorded.KERNEL).mean(1)
    np.testing.assert_allclose(
      seen.memory.running, running + of_batch, rtol=1e-5
    )
