"""Whole runs of methods with phases and rehearsals against NumPy."""

import chex
import numpy as np
import optax
import pytest

from experiments.methods import g_blending
from tests.experiments.methods import hand

ADAMW = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.1}
TRACE = {'name': 'trace', 'decay': 0.9}
NAMES = hand.NAMES


# MLA.


def test_mla_is_the_alternation_by_hand():
  """An optimizer a part, each of which moves in its own phase only."""
  batches = {key: leaf.copy() for key, leaf in hand.BATCHES.items()}
  # A phase that is not finite is skipped; those around it are not.
  bad = (1, 3, 'mor')
  batches['mor'][1, 3, 0] = np.nan
  run = hand.train('mla', batches=batches, optimizer=ADAMW, transforms=(TRACE,))
  after, found = run.after, run.metrics['losses']
  for seed in range(len(hand.SEEDS)):
    params = hand.flat(run.start.params, seed)
    optimizers = {part: hand.TracedAdamW() for part in (*NAMES, 'fusion')}
    head = Head(params['fusion/head/kernel'].shape[0])
    for step in range(batches['label'].shape[1]):
      batch = hand.batch_of(batches, seed, step)
      logits = {}
      for name in NAMES:
        if (seed, step, name) == bad:
          continue
        features = hand.encode(params, name, batch)
        logits[name] = hand.through(params, 'fusion/head', features)
        read_out = hand.through(params, f'heads_{name}', features)
        for objective, value in (
          (f'shared_{name}', logits[name]),
          (name, read_out),
        ):
          np.testing.assert_allclose(
            found[objective][seed, step],
            hand.cross_entropy(value, batch['label']),
            rtol=2e-3,
          )
        shared, by_features = hand.dense_gradient(
          params,
          'fusion/head',
          features,
          hand.by_logits(logits[name], batch['label']),
        )
        own, _ = hand.dense_gradient(
          params,
          f'heads_{name}',
          features,
          hand.by_logits(read_out, batch['label']),
        )
        own |= hand.encoder_gradient(features, name, batch, by_features)
        shared['fusion/head/kernel'] = head.projected(
          shared['fusion/head/kernel'], np.mean(features, axis=0)
        )
        optimizers[name].step(params, own)
        optimizers['fusion'].step(params, shared)
      if len(logits) == len(NAMES):
        np.testing.assert_allclose(
          found['fused'][seed, step],
          hand.cross_entropy(gated(logits), batch['label']),
          rtol=2e-3,
        )
    hand.assert_params(after.params, seed, params)
  chex.assert_tree_all_finite((after.params, after.opt_state, after.memory))
  skipped = optax.tree.get(after.opt_state, 'total_notfinite')
  assert skipped.tolist() == [0, 1]


class Head:
  """The gradient modification of MLA, by the formula with a scalar."""

  def __init__(self, width):
    self.projection, self.updates = np.eye(width), 0

  def projected(self, gradient, mean):
    if self.updates:
      batch = self.updates // len(NAMES) % hand.STEPS_PER_EPOCH
      alpha = 0.1 ** (1 + batch / hand.STEPS_PER_EPOCH)
      k = self.projection @ mean
      self.projection -= np.outer(k, k) / (alpha + mean @ k)
      self.projection /= np.linalg.norm(self.projection)
      gradient = self.projection @ gradient
    self.updates += 1
    return gradient


def gated(logits):
  """MLA's weights: exp(max_j e_j - e_m), divided by their sum."""
  entropies = {}
  for name, value in logits.items():
    p = hand.probabilities(value)
    entropies[name] = -np.sum(p * np.log(p), axis=1, keepdims=True)
  largest = np.max(list(entropies.values()), axis=0)
  weights = {name: np.exp(largest - e) for name, e in entropies.items()}
  return sum(weights[k] * logits[k] for k in logits) / sum(weights.values())


# UMT.


def test_teachers_are_models_trained_apart():
  start, rehearsed, _, after, metrics = hand.train(
    'umt', teacher_epochs=1.3, strength=3.0
  )
  chex.assert_trees_all_equal(rehearsed.params, start.params)
  # From then on they stand still.
  chex.assert_trees_all_equal(after.memory, rehearsed.memory)
  for seed in range(len(hand.SEEDS)):
    teachers = hand.flat(start.memory['params'], seed)
    student = hand.flat(start.params, seed)
    # They start elsewhere.
    path = 'encoders_fou/Dense_0/kernel'
    assert not np.allclose(teachers[path], student[path])
    for name in NAMES:
      rule = hand.Momentum()
      for step in range(4):
        batch = hand.batch_of(hand.BATCHES, seed, step)
        rule.step(teachers, hand.gradient_alone(teachers, name, batch))
    hand.assert_params(rehearsed.memory['params'], seed, teachers)
    batch = hand.batch_of(hand.BATCHES, seed, 0)
    distance = sum(
      np.mean(
        (hand.encode(student, name, batch) - hand.encode(teachers, name, batch))
        ** 2
      )
      for name in NAMES
    )
    np.testing.assert_allclose(
      metrics['losses']['distillation'][seed, 0], 3 * distance, rtol=1e-3
    )
  chex.assert_tree_all_finite(metrics['losses'])


# G-Blending.


def test_g_blending_by_hand():
  start, rehearsed, scratch, after, metrics = hand.train(
    'g_blending',
    super_epochs=1.3,
    total='objectives',
  )
  objectives = ('fused', *NAMES)
  chex.assert_trees_all_equal(rehearsed.params, start.params)
  np.testing.assert_array_equal(
    optax.tree.get(start.opt_state, 'blend'), np.ones((len(hand.SEEDS), 4))
  )
  weights = np.asarray(optax.tree.get(rehearsed.opt_state, 'blend'))
  np.testing.assert_allclose(np.sum(weights, axis=1), 4, rtol=1e-5)

  for seed in range(len(hand.SEEDS)):
    batches = [hand.batch_of(hand.BATCHES, seed, step) for step in range(5)]
    # An epoch of training rows, and the validation rows that are real.
    splits = (
      {
        key: np.concatenate([batch[key] for batch in batches[:3]])
        for key in batches[0]
      },
      {key: leaf[seed, 0, : hand.REAL_ROWS] for key, leaf in hand.HELD.items()},
    )
    apart, fused = hand.flat(start.params, seed), hand.flat(start.params, seed)
    losses = [losses_of(apart, fused, rows) for rows in splits]
    rules = {name: hand.Momentum() for name in objectives}
    for batch in batches[:4]:
      rules['fused'].step(fused, hand.gradient_fused(fused, batch))
      for name in NAMES:
        rules[name].step(apart, hand.gradient_alone(apart, name, batch))
    losses += [losses_of(apart, fused, rows) for rows in splits]
    measured = scratch.sums[seed] / scratch.rows[seed][:, None]
    np.testing.assert_allclose(measured, losses, rtol=1e-3)
    np.testing.assert_allclose(
      weights[seed], 4 * g_blending.blend(*measured), rtol=1e-4
    )

    # Then the model learns from the blended losses.
    params, rule = hand.flat(start.params, seed), hand.Momentum()
    for step, batch in enumerate(batches):
      for place, name in enumerate(objectives):
        np.testing.assert_allclose(
          metrics['weights'][name][seed, step], weights[seed, place]
        )
      gradients = [hand.gradient_fused(params, batch)] + [
        hand.gradient_alone(params, name, batch) for name in NAMES
      ]
      rule.step(
        params,
        {
          path: sum(
            weight * gradient.get(path, 0)
            for weight, gradient in zip(weights[seed], gradients, strict=True)
          )
          for path in params
        },
      )
    hand.assert_params(after.params, seed, params)
  # Both rules for ΔG matter here: not all weights are alike, nor one alone.
  assert np.all(np.sum(weights > 0, axis=1) >= 1)
  assert not np.allclose(weights[0], weights[1])


def losses_of(apart, fused, rows):
  features = {name: hand.encode(fused, name, rows) for name in NAMES}
  return [
    hand.cross_entropy(hand.fuse(fused, features), rows['label']),
    *(
      hand.cross_entropy(
        hand.through(apart, f'heads_{name}', hand.encode(apart, name, rows)),
        rows['label'],
      )
      for name in NAMES
    ),
  ]


# Methods of the fused loss.


@pytest.mark.parametrize('name', ['agm', 'cml', 'pmr'])
def test_two_seeds_on_three_modalities(name):
  start, rehearsed, scratch, after, metrics = hand.train(name)
  chex.assert_trees_all_equal_shapes_and_dtypes(start, rehearsed, after)
  chex.assert_tree_all_finite((after.params, metrics))
  for seed in range(len(hand.SEEDS)):
    params = hand.flat(start.params, seed)
    batch = hand.batch_of(hand.BATCHES, seed, 0)
    # The curve of an output is its cross entropy.
    for output, loss in zip(
      ('fused', *NAMES), losses_of(params, params, batch), strict=True
    ):
      np.testing.assert_allclose(
        metrics['losses'][output][seed, 0], loss, rtol=1e-4
      )
  assert (scratch is not None) == (name == 'pmr')
  if name == 'agm':
    assert after.memory.steps.tolist() == [5, 5]
    assert np.ptp(after.memory.mean, axis=1).min() > 0
  if name == 'pmr':
    assert rehearsed.memory.seen.sum() > 10
    chex.assert_trees_all_equal(rehearsed.memory, after.memory)
    assert np.all(metrics['losses']['prototypes'] > 0)
  if name == 'cml':
    assert np.all(metrics['losses']['partial'] > 0)
