"""G2D and SMP: which modality is held still, and what is distilled."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.methods import g2d
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import hand
from tests.experiments.methods import recorded

ADAMW = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.1}
RULE = optax.chain(
  optax.clip_by_global_norm(0.05),
  optax.adamw(optax.linear_schedule(0.1, 0.0, 100), weight_decay=0.5),
)


def make(distil=False, **changes):
  """A method with batch statistics, trained by Adam with weight decay."""
  task = recorded.make_task(encoder=recorded.Normalised, **changes)
  return g2d.make(task._replace(optimizer=lambda *_: RULE), distil=distil)


def stepped(method, state, opt_state, batch):
  """Takes a step of the method, and one with its optimizer alone.

  The optimizer alone gets a zero gradient for a modality that is held still, so
  that this gradient cannot affect clipping.
  """
  _, seen = recorded.losses_of(method, state, batch)
  gradient, _ = recorded.update_of(method, state, batch)

  @recorded.compiled
  def update(gradient, opt_state, params, still):
    visual = gradient['encoders_visual']
    # Far above the threshold of clipping.
    large = {'encoders_visual': optax.tree.scale(1e3, visual)}
    updates, new = method.optimizer.update(
      gradient | large, opt_state, params, still=still
    )
    large = optax.tree.scale(1 - still['visual'], large)
    plain, _ = RULE.update(gradient | large, opt_state, params)
    moved, plain = (optax.apply_updates(params, x) for x in (updates, plain))
    return moved, new, plain

  params, opt_state, plain = update(
    gradient, opt_state, state.params, seen.observed['still']
  )
  state = state._replace(params=params, model_state=seen.model_state)
  return state, opt_state, plain


def of_encoder(state, opt_state, name):
  """Returns a modality's parameters, statistics and moments."""
  trees = [state.params, state.model_state['batch_stats']]
  trees += [optax.tree.get(opt_state, key) for key in ('mu', 'nu')]
  return [tree[f'encoders_{name}'] for tree in trees]


@pytest.mark.quick
def test_a_modality_held_still_does_not_move():
  method = make()
  state, batch = recorded.begin(method)
  # The visual modality is confident; in half of 40 steps it is held still.
  memory = state.memory._replace(confidence=np.float32([0.3, 0.8]))
  opt_state = recorded.compiled(method.optimizer.init)(state.params)
  state = state._replace(memory=memory)
  # Adam has moments of it from earlier steps.
  for count, number in enumerate((25, 5, 19, 20), 1):
    state = recorded.at_step(state, number)
    after, new, plain = stepped(method, state, opt_state, batch)
    for name, is_still in (('audio', False), ('visual', number < 20)):
      for before, now in zip(
        of_encoder(state, opt_state, name),
        of_encoder(after, new, name),
        strict=True,
      ):
        if is_still:
          chex.assert_trees_all_equal(now, before)
        else:
          assert np.any(checks.flat(now) != checks.flat(before))
    for part in plain.keys() - ({'encoders_visual'} if number < 20 else {}):
      checks.assert_close(after.params[part], plain[part], rtol=1e-6)
    counts = optax.tree.get_all_with_path(new, 'count')
    assert {int(one) for _, one in counts} == {count}
    state, opt_state = after, new


@pytest.mark.quick
def test_equally_confident_teachers_have_an_order():
  for confidence, part, expected in (
    ([0.5, 0.5], 0.3, [False, True]),
    ([0.5, 0.5], 1.0, [False, False]),
    ([0.7], 0.0, [False]),
    ([0.9, 0.5, 0.7], 0.49, [True, False, True]),
    ([0.9, 0.5, 0.7], 0.5, [True, False, False]),
    ([0.9, 0.1, 0.5, 0.3], 0.34, [True, False, True, False]),
    ([-0.1, -4.0], 0.0, [True, False]),  # negative errors
    ([np.nan, 0.2, -np.inf], 0.0, [False, True, True]),  # diverged teachers
  ):
    found = g2d.stands_still(jnp.array(confidence), part)
    assert found.tolist() == expected


@pytest.mark.quick
@pytest.mark.parametrize('num_classes', [4, 1])
def test_features_and_outputs_are_distilled(num_classes):
  method = make(distil=True, num_classes=num_classes)
  state, batch = recorded.begin(method)
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
    expected = sum(np.mean(abs(teachers[k] - fused)) for k in names)
  else:
    q, expected = recorded.softmax(fused), 0
    for name in names:
      p = recorded.softmax(np.asarray(teachers[name]))
      expected += np.mean(np.sum(p * np.log(p / q), axis=1))
  np.testing.assert_allclose(losses['distilled_outputs'], expected, rtol=1e-4)
  chex.assert_trees_all_equal(seen.memory, state.memory)


@pytest.mark.quick
def test_a_regression_of_many_modalities_does_not_diverge():
  """With squared differences of outputs, it is NaN after 20 steps."""
  generator = np.random.default_rng(0)
  features = {name: generator.standard_normal((6, 4)) for name in 'abcdef'}
  task = recorded.make_task(features, lambda: nn.MLP((64,)), num_classes=1)
  method = g2d.make(task)
  state, batch = recorded.begin(method, features)
  rule = optax.sgd(0.01, momentum=0.9)

  def step(carry, _):
    params, opt_state = carry

    def loss(params):
      now = state._replace(params=params)
      losses, _ = method.losses(now, batch, state.key, None)
      return sum(losses[name] for name in method.primary)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, opt_state = rule.update(gradient, opt_state)
    return (optax.apply_updates(params, updates), opt_state), value

  start = state.params, rule.init(state.params)
  _, values = recorded.compiled(
    lambda start: jax.lax.scan(step, start, length=60)
  )(start)
  assert values[-1] < values.max() < 2 * values[0]


def test_the_modalities_of_the_most_confident_teachers_do_not_move():
  run = hand.train('smp', teacher_epochs=1.3, optimizer=ADAMW, fraction=0.25)
  assert np.all(np.isfinite(run.metrics['losses']['fused']))
  for seed in range(len(hand.SEEDS)):
    # Teachers are asked on an epoch of training rows.
    teachers = hand.flat(run.scratch.copy.params, seed)
    seen = {k: np.concatenate(x[seed, :3]) for k, x in hand.BATCHES.items()}
    expected = []
    for name in hand.NAMES:
      features = hand.encode(teachers, name, seen)
      logits = hand.through(teachers, f'heads_{name}', features)
      p = recorded.softmax(np.asarray(logits))
      expected.append(np.mean(p[np.arange(len(p)), seen['label']]))
    confidence = run.after.memory.confidence[seed]
    np.testing.assert_allclose(confidence, expected, rtol=1e-3)
    # 7.5 of 30 steps; five are taken: in the first half all but the least
    # confident are held still, then all but two.
    before, after = (
      hand.flat(one.params, seed) for one in (run.start, run.after)
    )
    paths = [f'encoders_{name}/Dense_0/kernel' for name in hand.NAMES]
    moved = [np.any(before[path] != after[path]) for path in paths]
    order = np.argsort(confidence)
    assert [moved[i] for i in order] == [True, True, False]


def test_teachers_are_asked_on_the_rows_that_an_option_names():
  for rows in ('train', 'validation'):
    method = g2d.make(recorded.make_task(), rows=rows)
    found = [(one.split, one.epochs) for one in method.rehearsal.passes]
    assert found == [('train', 4.0), (rows, 1.0)]
