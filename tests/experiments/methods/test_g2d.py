"""G2D and SMP: who stands still, and that it does; what is distilled."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.methods import g2d
from mimo_jax import nn
from tests.experiments.methods import hand
from tests.experiments.methods import recorded

ADAMW = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.1}


def make(distil=False, **changes):
  """A method on encoders with statistics, which steps of Adam decay."""
  task = recorded.make_task(encoder=recorded.Normalised, **changes)
  schedule = optax.linear_schedule(0.1, 0.0, 100)
  rule = optax.chain(
    optax.clip_by_global_norm(0.05), optax.adamw(schedule, weight_decay=0.5)
  )
  task = task._replace(optimizer=lambda _: rule)
  if changes.get('num_classes') == 1:
    task = task._replace(losses_of=nn.absolute_error_losses)
  return g2d.make(task, distil=distil)


@pytest.mark.quick
def test_who_stands_still_does_not_move_at_all():
  method = make()
  state, batch = recorded.begin(method)
  # The visual modality is the sure one; of 40 steps half are of that kind.
  confidence = jnp.array([0.3, 0.8])
  state = state._replace(memory=state.memory._replace(confidence=confidence))
  state = state._replace(opt_state=())

  def step(state, of_optimizer):
    gradients_state = method.gradients.init(state.params)

    def objectives(params):
      now = state._replace(params=params)
      losses, seen = method.losses(now, batch, state.key, None)
      return losses, seen

    losses, pullback, seen = jax.vjp(objectives, state.params, has_aux=True)
    gradient, _ = method.gradients.update(
      pullback, gradients_state, state.params, losses=losses
    )
    updates, of_optimizer = method.optimizer.update(
      gradient, of_optimizer, state.params, **seen.observed
    )
    params = optax.apply_updates(state.params, updates)
    after = state._replace(params=params, model_state=seen.model_state)
    return after, of_optimizer

  step = recorded.compiled(step)
  of_optimizer = recorded.compiled(method.optimizer.init)(state.params)
  # Adam has moments of it from before.
  for number in (25, 5, 19, 20):
    state = state._replace(step=jnp.int32(number))
    after, new = step(state, of_optimizer)
    moments = [
      {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
      }
      for tree in (of_optimizer, new)
    ]
    for name, is_still in (('audio', False), ('visual', number < 20)):
      part = f'encoders_{name}'
      for tree in ('params', 'model_state'):
        before, now = (
          jax.tree.leaves(getattr(each, tree)['batch_stats'][part])
          if tree == 'model_state'
          else jax.tree.leaves(getattr(each, tree)[part])
          for each in (state, after)
        )
        for old, one in zip(before, now, strict=True):
          # A bias before batch normalisation has no gradient.
          moved = np.any(np.asarray(old) != one) or not np.any(old)
          assert moved == (not is_still) or not np.any(old), (number, part)
      changed = [
        np.any(np.asarray(moments[0][k]) != moments[1][k])
        for k in moments[0]
        if part in k and 'kernel' in k
      ]
      assert len(changed) == 2
      assert changed == [not is_still] * 2
    counts = [np.asarray(m) for k, m in moments[1].items() if 'count' in k]
    assert {int(count) for count in counts} == {
      int(moments[0][next(k for k in moments[0] if 'count' in k)]) + 1
    }
    state, of_optimizer = after, new


def test_gradients_of_who_stands_still_clip_no_others():
  method = make()
  state, _ = recorded.begin(method)

  @recorded.compiled
  def update(size):
    gradient = jax.tree.map(jnp.ones_like, state.params)
    gradient['encoders_visual'] = jax.tree.map(
      lambda leaf: size * leaf, gradient['encoders_visual']
    )
    still = {'audio': jnp.float32(0), 'visual': jnp.float32(1)}
    of_optimizer = method.optimizer.init(state.params)
    return method.optimizer.update(
      gradient, of_optimizer, state.params, still=still
    )[0]

  found = update(1.0), update(1e3)
  chex.assert_trees_all_equal(*found)


@pytest.mark.quick
def test_equal_teachers_and_one_modality_have_an_order():
  for confidence, part, expected in (
    ([0.5, 0.5], 0.3, [False, True]),
    ([0.5, 0.5], 1.0, [False, False]),
    ([0.7], 0.0, [False]),
    ([0.9, 0.1, 0.5, 0.3], 0.34, [True, False, True, False]),
    ([-0.1, -4.0], 0.0, [True, False]),  # errors, turned around
  ):
    found = g2d.stands_still(jnp.array(confidence), part)
    assert found.tolist() == expected


@pytest.mark.quick
@pytest.mark.parametrize('num_classes', [4, 1])
def test_features_and_outputs_are_distilled(num_classes):
  method = make(distil=True, num_classes=num_classes)
  kernel = recorded.KERNEL[:, :num_classes]
  state, batch = recorded.begin(method, kernel=kernel)
  losses, seen = recorded.losses_of(method, state, batch)
  task = recorded.make_task(
    encoder=recorded.Normalised, num_classes=num_classes, detach_heads=False
  )
  variables = state.memory.variables
  teachers = recorded.apply(task.model, variables, batch)
  apart = recorded.apply(task.model, variables, batch, method='features')
  outputs, mutated = recorded.apply(
    method.model,
    state.variables,
    batch,
    train=True,
    mutable=['batch_stats', 'intermediates'],
  )
  features = mutated['intermediates']['features']
  names = ('audio', 'visual')
  expected = sum(np.mean((features[k] - apart[k]) ** 2) for k in names)
  np.testing.assert_allclose(losses['distilled_features'], expected, rtol=1e-4)
  fused = np.asarray(outputs['fused'])
  if num_classes == 1:
    expected = sum(np.mean((teachers[k] - fused) ** 2) for k in names)
  else:
    q, expected = recorded.softmax(fused), 0
    for name in names:
      p = recorded.softmax(np.asarray(teachers[name]))
      expected += np.mean(np.sum(p * np.log(p / q), axis=1))
  np.testing.assert_allclose(losses['distilled_outputs'], expected, rtol=1e-4)
  chex.assert_trees_all_equal(seen.memory, state.memory)


def test_teachers_are_trained_and_asked():
  joint = hand.train('joint')
  for rows in ('train', 'validation'):
    run = hand.train('smp', teacher_epochs=1.3, rows=rows, fraction=0.0)
    # Nobody stands still, so that it is joint training.
    chex.assert_trees_all_close(run.after.params, joint.after.params, rtol=1e-4)
    for seed in range(len(hand.SEEDS)):
      teachers = hand.flat(run.scratch.copy.params, seed)
      if rows == 'train':
        seen = {k: leaf[seed, :3] for k, leaf in hand.BATCHES.items()}
        seen = {k: x.reshape(36, *x.shape[2:]) for k, x in seen.items()}
      else:
        seen = {k: leaf[seed, 0, :4] for k, leaf in hand.HELD.items()}
      expected = []
      for name in hand.NAMES:
        features = hand.encode(teachers, name, seen)
        logits = hand.through(teachers, f'heads_{name}', features)
        p = recorded.softmax(np.asarray(logits))
        expected.append(np.mean(p[np.arange(len(p)), seen['label']]))
      found = run.after.memory.confidence[seed]
      np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=rows)


def test_in_a_run_the_surest_stand_still_to_the_bit():
  run = hand.train('smp', teacher_epochs=1.3, optimizer=ADAMW, fraction=0.25)
  # Of 30 steps 7.5; five are taken: in the first half all but the least sure,
  # then all but two.
  assert np.all(np.isfinite(run.metrics['losses']['fused']))
  for seed in range(len(hand.SEEDS)):
    order = np.argsort(run.after.memory.confidence[seed])
    before, after = (
      hand.flat(tree, seed) for tree in (run.start.params, run.after.params)
    )
    path = 'encoders_{}/Dense_0/kernel'
    moved = [
      np.any(
        before[path.format(hand.NAMES[i])] != after[path.format(hand.NAMES[i])]
      )
      for i in order
    ]
    assert moved == [True, True, False]
