"""MIDAS: which rows are mixed, their weights, and the weak modality."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import midas
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick
STEP = 17  # of 40, no epoch's first
RATE, STRENGTH = 0.5, 3.0


# The first four of 40 steps only warm up.
METHOD = midas.make(recorded.make_task(), strength=STRENGTH, rate=RATE)


def begin(step=STEP, alpha=(1.0, 1.3)):
  """Makes a state whose heads differ, so that one modality is weak."""
  state, batch = recorded.begin(METHOD)
  generator = np.random.default_rng(3)
  for name, size in (('audio', 0.3), ('visual', 1.5)):
    kernel = size * generator.standard_normal((5, 4))
    state.params[f'heads_{name}']['kernel'] = jnp.float32(kernel)
  memory = jnp.float32(alpha)
  return state._replace(step=jnp.int32(step), memory=memory), batch


def cosine(ours, theirs):
  lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
  return np.sum(ours * theirs, axis=1) / lengths


def expected(state, alpha):
  """Computes the loss of mixed rows and the next α, row by row."""
  labels, names = recorded.LABELS, ('audio', 'visual')
  heads = [np.asarray(state.params[f'heads_{k}']['kernel']) for k in names]
  own = [
    recorded.softmax(recorded.FEATURES[k] @ head)
    for k, head in zip(names, heads, strict=True)
  ]
  kept = []
  for order in np.asarray(jnp.stack(midas.sources(state, 2, 6))):
    features = {
      k: recorded.FEATURES[k][rows]
      for k, rows in zip(names, order, strict=True)
    }
    fused = recorded.softmax(recorded.logits_of(features))
    moved = [k for k in (0, 1) if np.any(order[k] != np.arange(6))]
    assert len(moved) == 1
    for i in range(6):
      first, second = labels[order[0][i]], labels[order[1][i]]
      if first == second:
        continue
      c = np.array([own[0][order[0][i], first], own[1][order[1][i], second]])
      k = names[moved[0]]
      s = cosine(features[k][[i]], recorded.FEATURES[k][[i]])[0]
      p = fused[i, [first, second]]
      kept.append((c / c.sum(), np.log(p), 1 + (s + 1) / 2))
  shares = np.array([c for c, _, _ in kept])
  weak = np.argmin(shares.mean(0))
  used = np.where(np.arange(2) == weak, alpha, 1.0)
  loss = -np.mean([h * np.sum(used * c * log_p) for c, log_p, h in kept])
  p = np.exp([log_p for _, log_p, _ in kept])
  trust = p[:, weak] / p.sum(1)
  grown = np.ones(2)
  apart = np.mean(shares[:, weak] - trust)
  grown[weak] = max(1, used[weak] + RATE * apart)
  return loss, grown, weak


@pytest.mark.parametrize('alpha', [(1.0, 1.3), (1.4, 1.0)])
def test_mixed_rows_have_the_labels_of_their_sources(alpha):
  state, batch = begin(alpha=alpha)
  losses, seen, gradients = recorded.learn(METHOD, state, batch)
  loss, grown, weak = expected(state, np.array(alpha))
  np.testing.assert_allclose(losses['misaligned'], STRENGTH * loss, rtol=1e-4)
  # α stays 1 for all but the weak modality.
  np.testing.assert_allclose(seen.memory, grown, rtol=1e-4)
  assert seen.memory[1 - weak] == 1
  # The weights have no gradient: nothing reaches the heads.
  for name in ('audio', 'visual'):
    assert not np.any(gradients['misaligned'][f'heads_{name}']['kernel'])
    assert np.any(gradients['misaligned'][f'encoders_{name}']['scale'])


def test_alpha_grows_only_for_the_weak_modality():
  """It grows where the fused output trusts it less than its own head."""
  own = np.full((2, 5, 3), [0.5, 0.2, 0.3], np.float32)
  p = np.full((2, 5, 3), [0.6, 0.1, 0.3], np.float32)
  counts = np.arange(5) < 4
  for alpha, used in (((1.0, 1.5, 1.0), 1.5), ((2.0, 1.0, 3.0), 1.0)):
    now, grown = recorded.compiled(midas.adapted)(
      np.float32(alpha), own, np.log(p), np.tile(counts, (2, 1)), 0.5
    )
    assert now.tolist() == [1, used, 1]
    expected = [1, used + 0.5 * (0.2 - 0.1), 1]
    np.testing.assert_allclose(grown, expected, rtol=1e-5)


def test_alpha_is_reset_in_each_epoch():
  found = []
  for step, alpha in ((20, (5.0, 5.0)), (20, (1.0, 1.0)), (21, (5.0, 5.0))):
    state, batch = begin(step, alpha)
    _, seen, _ = recorded.learn(METHOD, state, batch)
    found.append(seen.memory)
  np.testing.assert_array_equal(found[0], found[1])
  assert max(found[2]) > 4


def test_alpha_outlives_epochs_of_a_single_step():
  task = recorded.make_task()._replace(steps=700, steps_per_epoch=1)
  method, state, batch = recorded.begun(midas, task, warm_up=0.0)
  state = state._replace(memory=np.full(2, 5, np.float32))
  kept = [
    np.max(
      recorded.losses_of(method, recorded.at_step(state, step), batch)[1].memory
    )
    > 4
    for step in (9, 10, 11)
  ]
  assert kept == [True, False, True]


def test_in_the_warm_up_only_uni_modal_losses_count():
  for step, is_warm in ((3, False), (4, True)):
    state, batch = begin(step)
    losses, seen, gradients = recorded.learn(METHOD, state, batch)
    for name in ('fused', 'misaligned'):
      assert recorded.learns(gradients[name]) == is_warm
    assert (losses['misaligned'] > 0) == is_warm
    whole = recorded.cross_entropy(recorded.logits_of())
    np.testing.assert_allclose(losses['fused'], whole, rtol=1e-5)
    if not is_warm:
      assert seen.memory.tolist() == [1, 1]


def test_rows_of_a_single_class_are_not_mixed():
  state, batch = begin()
  batch['label'] = np.zeros(6, np.int32)
  losses, seen, gradients = recorded.learn(METHOD, state, batch)
  assert losses['misaligned'] == 0
  assert np.all(np.isfinite(seen.memory))
  assert not recorded.learns(gradients['misaligned'])


def test_three_modalities_have_three_sources_and_a_mirror_image():
  (state, _), own = begin(), set()
  for step in range(12):
    now = recorded.at_step(state, step)
    first, second = map(np.asarray, midas.sources(now, 3, 50))
    whole = np.arange(50)
    for order in (first, second):
      assert [np.array_equal(rows, whole) for rows in order].count(True) == 1
      assert np.array_equal(np.sort(order, axis=1), np.tile(whole, (3, 1)))
    # One modality has the same random row in both; the others are swapped.
    same = [i for i in range(3) if np.array_equal(first[i], second[i])]
    assert len(same) == 1
    own.add(next(i for i in range(3) if np.array_equal(first[i], whole)))
  assert own == {0, 1, 2}
