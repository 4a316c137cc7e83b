"""LFM: two alignments, and their weights over the epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import common
from experiments.methods import lfm
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

GENERATOR = np.random.default_rng(4)


def share_of(method, state):
  factors = common.factors(method, state)
  np.testing.assert_allclose(factors['fused'], 1 - factors['alignment'])
  return float(factors['alignment'])


def test_the_weight_of_the_alignment_decreases_over_the_epochs():
  method = lfm.make(recorded.make_task())  # of 10 steps an epoch
  state, batch = recorded.begin(method)
  for step, epoch in ((0, 1), (9, 1), (10, 2), (35, 4)):
    found = share_of(method, state._replace(step=jnp.int32(step)))
    np.testing.assert_allclose(found, 1 - np.exp(-1 / epoch), rtol=1e-6)
  state = state._replace(step=jnp.int32(10))
  _, _, gradients = recorded.learn(method, state, batch)
  update, _ = recorded.update_of(method, state, batch)
  a = 1 - np.exp(-1 / 2)
  expected = jax.tree.map(
    lambda fused, aligned, *own: (1 - a) * fused + a * aligned + sum(own),
    *(gradients[name] for name in ('fused', 'alignment', 'audio', 'visual')),
  )
  checks.assert_close(update, expected)


def test_the_contrastive_loss_is_over_all_ordered_pairs():
  names = ('a', 'b', 'c')
  features = {name: GENERATOR.normal(1, 2, (5, 4)) for name in names}
  expected = []
  for one in names:
    for other in names:
      if one != other:
        left, right = (
          features[k] / np.linalg.norm(features[k], axis=1, keepdims=True)
          for k in (one, other)
        )
        shares = recorded.softmax(left @ right.T / 0.3)
        expected.append(-np.log(np.diag(shares)).mean())
  found = recorded.compiled(lfm.contrastive)(features, 0.3)
  np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_features_of_zeros_have_a_gradient():
  features = {'a': np.zeros((2, 3)), 'b': np.ones((2, 3))}
  gradient = recorded.compiled(jax.grad(lfm.contrastive))(features, 0.1)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())
  message = "widths {'a': 3, 'b': 2}.*expected one width"
  unequal = features | {'b': np.ones((2, 2))}
  checks.assert_refused(message, lfm.contrastive, unequal, 0.1)


def test_the_divergence_is_jensen_shannon_of_the_shares():
  task = recorded.make_task(recorded.THREE)
  method = lfm.make(task, alignment='js')
  state, batch = recorded.begin(method, recorded.THREE, recorded.THREE_KERNEL)
  losses, _ = recorded.losses_of(method, state, batch)
  logits, start = [], 0
  for value in recorded.THREE.values():
    kernel = recorded.THREE_KERNEL[start : start + value.shape[1]]
    logits.append(3 * value @ kernel + recorded.BIAS)
    start += value.shape[1]
  p = recorded.softmax(np.stack(logits))

  def entropy(q):
    return -np.sum(q * np.log(q), axis=-1).mean()

  expected = entropy(p.mean(0)) - np.mean([entropy(one) for one in p])
  np.testing.assert_allclose(losses['alignment'], expected, rtol=1e-5)


@pytest.mark.parametrize('alignment', ['contrastive', 'js'])
def test_the_learned_weight_follows_finite_differences_of_held_out_loss(
  alignment,
):
  """The loss is that after a step with another weight."""
  inner_rate, rate, start = 0.4, 0.1, 0.6
  features = {
    'audio': recorded.FEATURES['audio'],
    'visual': recorded.FEATURES['visual'] * 0.5 + 0.2,
  }
  task = recorded.make_task(features, lambda: nn.MLP((5,)))
  method = lfm.make(
    task,
    schedule='learned',
    alignment=alignment,
    temperature=0.5,
    start=start,
    rate=rate,
    inner_rate=inner_rate,
  )
  state, batch = recorded.begin(method, features)
  assert share_of(method, state) == np.float32(start)
  held = [
    {
      'audio': jnp.float32(GENERATOR.normal(0.3, 1, (4, 5))),
      'visual': jnp.float32(GENERATOR.normal(-0.2, 2, (4, 5))),
      'label': jnp.array([0, 3, 1, 1]),
      'mask': jnp.arange(4) < rows,
    }
    for rows in (4, 1)
  ]
  rehearsal = method.rehearsal
  scratch = rehearsal.begin(state, batch)
  look, feel = (one.step for one in rehearsal.passes)
  scratch = recorded.compiled(look)(state, scratch, batch)
  feel = recorded.compiled(feel)
  for one in held:
    scratch = feel(state, scratch, one)
  after = rehearsal.end(state, scratch)

  _, _, gradients = recorded.learn(method, state, batch)
  trees = (state.params, gradients['fused'], gradients['alignment'])
  trees = jax.tree.map(np.float64, trees)

  def held_loss(a):
    params = jax.tree.map(
      lambda p, fit, align: p - inner_rate * ((1 - a) * fit + a * align), *trees
    )
    total = 0.0
    for one in held:
      hidden = []
      for name in features:
        dense = params[f'encoders_{name}']['Dense_0']
        given = np.float64(one[name])
        hidden.append(np.maximum(given @ dense['kernel'] + dense['bias'], 0))
      dense = params['fusion']['Dense_0']
      logits = np.concatenate(hidden, axis=1) @ dense['kernel'] + dense['bias']
      own = recorded.softmax(logits)[np.arange(4), np.asarray(one['label'])]
      total -= np.sum(np.log(own) * np.asarray(one['mask']))
    return total / 5

  slope = (held_loss(start + 1e-4) - held_loss(start - 1e-4)) / 2e-4
  assert abs(slope) > 1e-3
  np.testing.assert_allclose(after.memory, start - rate * slope, rtol=1e-4)
  # It stays within its bounds, and unchanged without held-out rows.
  for slope, expected in ((1e3, 0.95), (-1e3, 0.05), (np.nan, start)):
    ended = rehearsal.end(state, scratch._replace(slope=jnp.float32(slope)))
    np.testing.assert_allclose(ended.memory, expected, rtol=1e-6)


def test_the_lookahead_step_moves_only_parameters_that_learn():
  task = recorded.make_task(encoder=lambda: nn.MLP((5,)))
  task = task._replace(learns=lambda path: path[0] != 'encoders_audio')
  method = lfm.make(task, schedule='learned')
  state, batch = recorded.begin(method)
  begin, (look, _) = method.rehearsal.begin, method.rehearsal.passes
  scratch = recorded.compiled(look.step)(state, begin(state, batch), batch)
  checks.assert_equal(
    scratch.params['encoders_audio'], state.params['encoders_audio']
  )
  ways = {name: jax.tree.leaves(tree) for name, tree in scratch.way.items()}
  assert not any(np.any(leaf) for leaf in ways['encoders_audio'])
  assert all(np.any(leaf) for leaf in ways['encoders_visual'])
  bad = batch | {'audio': jnp.full_like(batch['audio'], jnp.inf)}
  scratch = recorded.compiled(look.step)(state, begin(state, batch), bad)
  checks.assert_equal(
    scratch.params['encoders_audio'], state.params['encoders_audio']
  )
