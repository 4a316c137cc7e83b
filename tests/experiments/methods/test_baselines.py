"""Uni-modal models: alone, as an ensemble, and to initialise another."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.methods import ensemble
from experiments.methods import moments
from experiments.methods import pretrained
from experiments.methods import unimodal
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import hand
from tests.experiments.methods import recorded


@pytest.mark.quick
def test_a_modality_alone_does_not_depend_on_the_others():
  task = recorded.make_task(recorded.THREE, fusion=nn.SumFusion, heads='share')
  for method, head in (
    (unimodal.make(task), lambda tree: tree['heads_text']),
    (ensemble.make(task), lambda tree: tree['fusion']['text']),
  ):
    state, batch = recorded.begin(method)
    changed = {'audio': 7 * batch['audio'], 'visual': batch['visual'] - 1}
    updates = [
      recorded.update_of(method, state, one)[0]
      for one in (batch, batch | changed)
    ]
    for part in (lambda tree: tree['encoders_text'], head):
      chex.assert_trees_all_equal(*map(part, updates))
      assert recorded.learns(part(updates[0]))
    others = [one['encoders_audio']['scale'] for one in updates]
    assert np.all(others[0] != others[1])
    # No encoder learns from the fused loss; in an ensemble it has no weight.
    if method.model.heads == 'auxiliary':
      gradient = recorded.learn(method, state, batch)[2]['fused']
      assert recorded.learns(gradient.pop('fusion'))
      assert not recorded.learns(gradient)


def test_an_ensemble_adds_the_logits_of_separately_trained_models():
  run = hand.train('ensemble')
  for seed in range(len(hand.SEEDS)):
    # Each has its own head, which is part of the fusion.
    params = {
      path.replace('fusion/', 'heads_'): leaf
      for path, leaf in hand.flat(run.start.params, seed).items()
    }
    batch = hand.batch_of(hand.BATCHES, seed, 0)
    logits = sum(
      hand.through(params, f'heads_{name}', hand.encode(params, name, batch))
      for name in hand.NAMES
    )
    fused = hand.cross_entropy(logits, batch['label'])
    found = run.metrics['losses']['fused'][seed, 0]
    np.testing.assert_allclose(found, fused, rtol=1e-4)
    rules = {name: hand.Learner() for name in hand.NAMES}
    for step in range(5):
      batch = hand.batch_of(hand.BATCHES, seed, step)
      for name, rule in rules.items():
        own = hand.gradient_of(name, params, batch)
        rule.step(params, {k: v for k, v in own.items() if f'_{name}/' in k})
    expected = {k.replace('heads_', 'fusion/'): v for k, v in params.items()}
    hand.assert_params(run.after.params, seed, expected)
  assert not np.any(run.metrics['weights']['fused'])


@pytest.mark.quick
def test_an_ensemble_averages_outputs_of_a_regression():
  options = {'kernel_init': jax.nn.initializers.ones}
  fusion = functools.partial(nn.ConcatFusion, **options)
  task = recorded.make_task(num_classes=1, fusion=fusion)
  method, state, batch = recorded.begun(ensemble, task)
  # Its layers start like those of the fusion that they replace.
  assert method.model.fusion.keywords == options
  expected = {
    name: batch[name] @ state.params['fusion'][name]['kernel']
    for name in recorded.FEATURES
  }
  expected['fused'] = (expected['audio'] + expected['visual']) / 2
  found = recorded.apply(method.model, state.variables, batch)
  checks.assert_close(found, expected)


@pytest.mark.quick
def test_frozen_encoders_do_not_move():
  task = recorded.make_task(encoder=recorded.Normalised)
  rule = optax.chain(optax.trace(0.9), optax.adamw(0.1, weight_decay=0.5))
  method, state, batch = recorded.begun(
    pretrained, task._replace(optimizer=lambda *_: rule)
  )
  # Several updates, since momentum would move them, too.
  params = state.params
  opt_state = recorded.compiled(method.optimizer.init)(params)

  @recorded.compiled
  def moved(gradient, opt_state, params):
    updates, opt_state = method.optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  for _ in range(3):
    now = state._replace(params=params)
    losses, seen = recorded.losses_of(method, now, batch)
    chex.assert_trees_all_equal(seen.model_state, state.model_state)
    gradient, _ = recorded.update_of(method, now, batch)
    params, opt_state = moved(gradient, opt_state, params)
  assert set(losses) == {'fused', 'audio', 'visual'}
  for name in state.params:
    if name != 'fusion':
      chex.assert_trees_all_equal(params[name], state.params[name])
  assert np.all(params['fusion']['Dense_0']['kernel'] != recorded.KERNEL)
  # Features in evaluation mode are fused.
  logits = recorded.apply(method.model, state.variables, batch)
  expected = recorded.cross_entropy(np.asarray(logits['fused']))
  losses, _ = recorded.losses_of(method, state, batch)
  np.testing.assert_allclose(losses['fused'], expected, rtol=1e-5)


@pytest.mark.quick
def test_copies_continue_from_encoders_and_return_with_statistics():
  task = recorded.make_task(encoder=recorded.Normalised)
  method, state, batch = recorded.begun(pretrained, task)
  # Encoders need not be freshly initialised.
  params, statistics = jax.tree.map(
    lambda leaf: leaf + 0.25, (state.params, state.model_state)
  )
  state = state._replace(params=params, model_state=statistics)
  rehearsal = method.rehearsal
  (walk,) = rehearsal.passes
  scratch = recorded.compiled(rehearsal.begin)(state, batch)
  chex.assert_trees_all_equal(scratch.copy.variables, state.variables)
  scratch = recorded.compiled(walk.step)(state, scratch, batch)
  after, copy = recorded.compiled(rehearsal.end)(state, scratch), scratch.copy
  for part in state.params:
    taken = state if part == 'fusion' else copy
    chex.assert_trees_all_equal(after.params[part], taken.params[part])
    # Moments of moved parameters are reset.
    assert rehearsal.moves((part, 'kernel')) == (part != 'fusion')
  chex.assert_trees_all_equal(after.model_state, copy.model_state)
  learnt = checks.flat(copy.model_state)
  assert np.all(learnt != checks.flat(statistics))


def test_a_model_can_start_from_separately_trained_encoders():
  run = hand.train('pretrained_finetuned', pretraining_epochs=1.3)
  slower = optax.sgd(0.01, momentum=0.9)
  for seed in range(len(hand.SEEDS)):
    start, taken, alone = (
      hand.flat(one.params, seed)
      for one in (run.start, run.rehearsed, run.scratch.copy)
    )
    for path, leaf in taken.items():
      is_of_fusion = path.startswith('fusion')
      expected = start if is_of_fusion else alone
      np.testing.assert_array_equal(leaf, expected[path])
      if path.endswith('kernel'):
        assert np.all(leaf == start[path]) == is_of_fusion
    params, rule = taken, hand.Learner(slower)
    for step in range(5):
      batch = hand.batch_of(hand.BATCHES, seed, step)
      gradient = hand.gradient_of('fused', params, batch)
      heads = {
        path: leaf
        for name in hand.NAMES
        for path, leaf in hand.gradient_of(name, params, batch).items()
        if path.startswith(f'heads_{name}/')
      }
      rule.step(params, gradient | heads)
    hand.assert_params(run.after.params, seed, params)


def test_an_optimizer_resets_its_state_of_moved_parameters():
  params = {'encoder': {'kernel': jnp.ones((2, 3))}, 'fusion': jnp.ones(4)}
  optimizer = optax.apply_if_finite(
    optax.MultiSteps(
      optax.partition(
        {
          'adam': optax.chain(optax.ema(0.9), optax.adam(0.1)),
          'sgd': optax.sgd(0.1, momentum=0.9),
        },
        lambda _: {'encoder': 'adam', 'fusion': 'sgd'},
      ),
      2,
    ).gradient_transformation(),
    3,
  )
  state = optimizer.init(params)
  for _ in range(3):
    gradients = jax.tree.map(lambda leaf: 2 * leaf, params)
    _, state = optimizer.update(gradients, state, params)
  found = jax.jit(
    lambda state: moments.chosen(
      params, optimizer.init(params), state, lambda path: path[0] != 'encoder'
    )
  )(state)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
  number = collections.Counter()
  for (path, leaf), before in zip(
    jax.tree_util.tree_leaves_with_path(found),
    jax.tree.leaves(state),
    strict=True,
  ):
    part = next((k for k in params if k in jax.tree_util.keystr(path)), None)
    name = jax.tree_util.keystr(path)
    # The counts beside the encoder's moments, and not that of MultiSteps.
    is_reset = part == 'encoder' or ("'adam'" in name and '.count' in name)
    expected = np.zeros_like(before) if is_reset else before
    np.testing.assert_array_equal(leaf, expected)
    number[part] += bool(np.any(before))
  # ema, two of Adam, and the sum of MultiSteps; for SGD, one and the sum.
  assert (number['encoder'], number['fusion']) == (4, 2)
