"""Whole runs of methods with phases and rehearsals, compared by hand."""

import functools

import chex
import jax
import numpy as np
import optax
import pytest
from jax import lax

import mimo_jax
from experiments.methods import g_blending
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import hand
from tests.experiments.methods import recorded

ADAMW = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.1}
TRACE = {'name': 'trace', 'decay': 0.9}
NAMES = hand.NAMES
OUTPUTS = ('fused', *NAMES)


# MLA.


def test_mla_equals_the_alternation_by_hand():
  """Each part has an optimizer, which updates only in its own phase."""
  batches = {key: leaf.copy() for key, leaf in hand.BATCHES.items()}
  # A phase that is not finite is skipped; its neighbours are not.
  bad = (1, 3, 'mor')
  batches['mor'][1, 3, 0] = np.nan
  run = hand.train('mla', batches=batches, optimizer=ADAMW, transforms=(TRACE,))
  after, found = run.after, run.metrics['losses']
  rule = optax.chain(optax.trace(0.9), optax.adamw(0.01, weight_decay=0.1))
  head = mimo_jax.orthogonal_head(
    lambda _: True, updates_per_batch=3, steps_per_epoch=hand.STEPS_PER_EPOCH
  )
  project = recorded.compiled(head.update)
  for seed in range(len(hand.SEEDS)):
    params = hand.flat(run.start.params, seed)
    optimizers = {part: hand.Learner(rule) for part in (*NAMES, 'fusion')}
    head_state = head.init({'kernel': params['fusion/head/kernel']})
    for step in range(batches['label'].shape[1]):
      batch = hand.batch_of(batches, seed, step)
      expected, logits = {}, {}
      for name in NAMES:
        if (seed, step, name) == bad:
          continue
        gradient, seen = phase(name, params, batch)
        features, logits[name], losses = seen
        expected |= losses
        own = {'kernel': gradient['fusion/head/kernel']}
        own, head_state = project(own, head_state, features=features)
        gradient['fusion/head/kernel'] = own['kernel']
        for part, prefixes in (
          (name, (f'encoders_{name}/', f'heads_{name}/')),
          ('fusion', ('fusion/',)),
        ):
          own = {
            p: leaf for p, leaf in gradient.items() if p.startswith(prefixes)
          }
          optimizers[part].step(params, own)
      if len(logits) == len(NAMES):
        fused = nn.entropy_weighted(logits)
        expected['fused'] = hand.cross_entropy(fused, batch['label'])
      for name, loss in expected.items():
        checks.assert_close(found[name][seed, step], loss, rtol=2e-3, name=name)
    hand.assert_params(after.params, seed, params)
  chex.assert_tree_all_finite((after.params, after.opt_state, after.memory))
  skipped = optax.tree.get(after.opt_state, 'total_notfinite')
  assert skipped.tolist() == [0, 1]


@functools.partial(recorded.compiled, static_argnums=0)
def phase(name, params, batch):
  """Computes a phase's gradient, with features, shared logits and losses."""

  def total(params):
    features = hand.encode(params, name, batch)
    shared = hand.through(params, 'fusion/head', features)
    own = hand.through(params, f'heads_{name}', lax.stop_gradient(features))
    losses = {
      f'shared_{name}': hand.cross_entropy(shared, batch['label']),
      name: hand.cross_entropy(own, batch['label']),
    }
    return sum(losses.values()), (features, shared, losses)

  return jax.grad(total, has_aux=True)(params)


# UMT.


def test_teachers_equal_separately_trained_models():
  start, rehearsed, _, after, metrics = hand.train(
    'umt', teacher_epochs=1.3, strength=3.0
  )
  chex.assert_trees_all_equal(rehearsed.params, start.params)
  # Then they do not change.
  chex.assert_trees_all_equal(after.memory, rehearsed.memory)
  for seed in range(len(hand.SEEDS)):
    teachers = hand.flat(start.memory['params'], seed)
    student = hand.flat(start.params, seed)
    # Their initial parameters differ.
    path = 'encoders_fou/Dense_0/kernel'
    assert not np.allclose(teachers[path], student[path])
    for name in NAMES:
      rule = hand.Learner()
      for step in range(4):
        batch = hand.batch_of(hand.BATCHES, seed, step)
        rule.step(teachers, hand.gradient_of(name, teachers, batch))
    hand.assert_params(rehearsed.memory['params'], seed, teachers)
    batch = hand.batch_of(hand.BATCHES, seed, 0)
    distance = 0
    for name in NAMES:
      mine, theirs = (hand.encode(p, name, batch) for p in (student, teachers))
      distance += np.mean((mine - theirs) ** 2)
    found = metrics['losses']['distillation'][seed, 0]
    np.testing.assert_allclose(found, 3 * distance, rtol=1e-3)
  chex.assert_tree_all_finite(metrics['losses'])


# G-Blending.


def test_g_blending_equals_the_computation_by_hand():
  start, rehearsed, scratch, after, metrics = hand.train(
    'g_blending', super_epochs=1.3, total='objectives'
  )
  chex.assert_trees_all_equal(rehearsed.params, start.params)
  equal = optax.tree.get(start.opt_state, 'blend')
  np.testing.assert_array_equal(equal, np.ones((len(hand.SEEDS), 4)))
  weights = np.asarray(optax.tree.get(rehearsed.opt_state, 'blend'))
  np.testing.assert_allclose(np.sum(weights, axis=1), 4, rtol=1e-5)

  for seed in range(len(hand.SEEDS)):
    batches = [hand.batch_of(hand.BATCHES, seed, step) for step in range(5)]
    # An epoch of training rows, and validation rows without padding.
    splits = (
      jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches[:3]),
      {key: leaf[seed, 0, : hand.REAL_ROWS] for key, leaf in hand.HELD.items()},
    )
    # A copy for each objective.
    start_of_all = hand.flat(start.params, seed)
    models = {name: dict(start_of_all) for name in OUTPUTS}
    losses = [losses_of(models, rows) for rows in splits]
    for name, model in models.items():
      rule = hand.Learner()
      for batch in batches[:4]:
        rule.step(model, hand.gradient_of(name, model, batch))
    losses += [losses_of(models, rows) for rows in splits]
    measured = [mean.sums[seed] / mean.rows[seed] for mean in scratch.losses]
    np.testing.assert_allclose(measured, losses, rtol=1e-3)
    blend = 4 * g_blending.blend(*measured)
    np.testing.assert_allclose(weights[seed], blend, rtol=1e-4)

    # Then the model learns from the blended losses.
    params, rule = start_of_all, hand.Learner()
    for step, batch in enumerate(batches):
      shown = [metrics['weights'][name][seed, step] for name in OUTPUTS]
      np.testing.assert_allclose(shown, weights[seed])
      gradients = [hand.gradient_of(name, params, batch) for name in OUTPUTS]
      blended = jax.tree.map(
        lambda *leaves, w=weights[seed]: np.tensordot(w, leaves, axes=1),
        *gradients,
      )
      rule.step(params, blended)
    hand.assert_params(after.params, seed, params)
  # Both rules for ΔG matter here: weights differ, and several are positive.
  assert np.all(np.sum(weights > 0, axis=1) >= 1)
  assert not np.allclose(weights[0], weights[1])


def losses_of(models, rows):
  """Computes each output's loss, with the model that learned from it."""
  return [hand.loss_of(name, models[name], rows) for name in OUTPUTS]


# Methods of the fused loss.


@pytest.mark.parametrize('name', ['agm', 'lfm', 'pmr'])
def test_a_methods_state_is_separate_for_seeds_and_has_three_modalities(name):
  is_lfm = name == 'lfm'
  learned = {'schedule': 'learned', 'alignment': 'js', 'start': 0.5}
  options = learned if is_lfm else {}
  start, rehearsed, scratch, after, metrics = hand.train(name, **options)
  chex.assert_trees_all_equal_shapes_and_dtypes(start, rehearsed, after)
  chex.assert_tree_all_finite((after.params, metrics))
  for seed in range(len(hand.SEEDS)):
    # The curve of an output is its cross-entropy.
    params = hand.flat(start.params, seed)
    batch = hand.batch_of(hand.BATCHES, seed, 0)
    found = [metrics['losses'][output][seed, 0] for output in OUTPUTS]
    expected = [hand.loss_of(output, params, batch) for output in OUTPUTS]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert (scratch is None) == (name == 'agm')
  if name == 'agm':
    assert after.memory.steps.tolist() == [5, 5]
    assert np.ptp(after.memory.mean, axis=1).min() > 0
  if is_lfm:
    np.testing.assert_array_equal(scratch.rows, hand.REAL_ROWS)
    shares = metrics['weights']['alignment']
    assert np.all((shares == rehearsed.memory[:, None]) & (shares != 0.5))
    assert shares[0, 0] != shares[1, 0]
  if name == 'pmr':
    assert rehearsed.memory.seen.sum() > 10
    chex.assert_trees_all_equal(rehearsed.memory, after.memory)
    assert np.all(metrics['losses']['prototypes'] > 0)
