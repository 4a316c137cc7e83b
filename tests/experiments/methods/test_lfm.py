"""LFM: two alignments, and their weights over the epochs."""

import itertools

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
    found = share_of(method, recorded.at_step(state, step))
    np.testing.assert_allclose(found, 1 - np.exp(-1 / epoch), rtol=1e-6)
  state = recorded.at_step(state, 10)
  _, _, gradients = recorded.learn(method, state, batch)
  update, _ = recorded.update_of(method, state, batch)
  a = 1 - np.exp(-1 / 2)
  weights = {'fused': 1 - a, 'alignment': a, 'audio': 1, 'visual': 1}
  expected = recorded.summed(gradients, **weights)
  checks.assert_close(update, expected)


def test_the_contrastive_loss_is_over_all_ordered_pairs():
  names = ('a', 'b', 'c')
  features = {name: GENERATOR.normal(1, 2, (5, 4)) for name in names}
  unit = {
    k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in features.items()
  }
  expected = [
    -np.log(np.diag(recorded.softmax(unit[one] @ unit[other].T / 0.3))).mean()
    for one, other in itertools.permutations(names, 2)
  ]
  found = recorded.compiled(lfm.contrastive)(features, 0.3)
  np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_features_of_zeros_have_a_gradient():
  features = {'a': np.zeros((2, 3)), 'b': np.ones((2, 3))}
  gradient = recorded.compiled(jax.grad(lfm.contrastive))(features, 0.1)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())


@pytest.mark.parametrize('released', [None, 'authors'])
def test_the_divergence_is_jensen_shannon_of_the_shares(released):
  """The authors swap the arguments of its divergences."""
  task = recorded.make_task(recorded.THREE)
  options = {'alignment': 'js', 'released': released}
  method, state, batch = recorded.begun(lfm, task, **options)
  losses, _ = recorded.losses_of(method, state, batch)
  kernels = recorded.kernels(*recorded.LINEAR)
  logits = [3 * recorded.THREE[k] @ kernels[k] for k in sorted(kernels)]
  p = recorded.softmax(np.stack(logits) + recorded.BIAS)
  of, to = (p.mean(0), p) if released else (p, p.mean(0))
  expected = np.mean(np.sum(of * np.log(of / to), axis=-1))
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
  rates = {'start': start, 'rate': rate, 'inner_rate': inner_rate}
  options = {'schedule': 'learned', 'alignment': alignment, 'temperature': 0.5}
  method = lfm.make(task, **options, **rates)
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
        layer = params[f'encoders_{name}']['Dense_0']
        hidden.append(
          np.maximum(recorded.dense(layer, np.float64(one[name])), 0)
        )
      layer = params['fusion']['Dense_0']
      logits = recorded.dense(layer, np.concatenate(hidden, axis=1))
      own = recorded.softmax(logits)[np.arange(4), np.asarray(one['label'])]
      total -= np.sum(np.log(own) * np.asarray(one['mask']))
    return total / 5

  slope = recorded.slope(lambda by: held_loss(start + by), 1e-4)
  assert abs(slope) > 1e-3
  np.testing.assert_allclose(after.memory, start - rate * slope, rtol=1e-4)
  # It stays within its bounds, and unchanged without held-out rows.
  for slope, expected in ((1e3, 0.95), (-1e3, 0.05), (np.nan, start)):
    ended = rehearsal.end(state, scratch._replace(slope=jnp.float32(slope)))
    np.testing.assert_allclose(ended.memory, expected, rtol=1e-6)


def test_the_lookahead_step_moves_only_parameters_that_learn():
  task = recorded.make_task(encoder=lambda: nn.MLP((5,)))
  task = task._replace(learns=lambda path: path[0] != 'encoders_audio')
  method, state, batch = recorded.begun(lfm, task, schedule='learned')
  begin, (look, _) = method.rehearsal.begin, method.rehearsal.passes
  scratch = recorded.compiled(look.step)(state, begin(state, batch), batch)
  checks.assert_equal(
    scratch.params['encoders_audio'], state.params['encoders_audio']
  )
  assert not recorded.learns(scratch.way['encoders_audio'])
  assert all(map(np.any, jax.tree.leaves(scratch.way['encoders_visual'])))
  bad = batch | {'audio': jnp.full_like(batch['audio'], jnp.inf)}
  scratch = recorded.compiled(look.step)(state, begin(state, batch), bad)
  checks.assert_equal(
    scratch.params['encoders_audio'], state.params['encoders_audio']
  )
