"""UMT: distillation, and teachers that are copies of the model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import copies
from experiments.methods import umt
from tests.experiments.methods import recorded


@pytest.fixture(scope='module')
def made():
  """Task, state and batch, on encoders with batch statistics."""
  task = recorded.make_task(encoder=recorded.Normalised)
  return task, *recorded.begin(umt.make(task))


@pytest.mark.quick
@pytest.mark.parametrize('released', [None, 'balance_benchmark'])
def test_features_are_pulled_to_those_of_teachers_in_evaluation_mode(released):
  """BalanceBenchmark leaves the teachers in training mode."""
  task = recorded.make_task(encoder=recorded.Normalised)
  method = umt.make(task, strength=3.0, released=released)
  state, batch = recorded.begin(method)
  losses, seen = recorded.losses_of(method, state, batch)
  expected = 0.0
  for name in recorded.FEATURES:
    taught, student = (
      batch[name] @ np.asarray(tree[f'encoders_{name}']['Dense_0']['kernel'])
      for tree in (state.memory['params'], state.params)
    )
    # Running statistics, still the initial ones, and those of the batch.
    taught = whitened(taught) if released else taught / np.sqrt(1 + 1e-5)
    expected += 3.0 * np.mean((whitened(student) - taught) ** 2)
  np.testing.assert_allclose(losses['distillation'], expected, rtol=1e-4)
  chex.assert_trees_all_equal(seen.memory, state.memory)


def whitened(values):
  centred = values - np.mean(values, axis=0, keepdims=True)
  return centred / np.sqrt(np.var(values, axis=0, keepdims=True) + 1e-5)


def test_a_copy_learns_one_loss_and_skips_steps_that_are_not_finite(made):
  task, state, batch = made
  model = task.model.clone(detach_heads=False)
  step = recorded.compiled(copies.stepper(task, model, ('audio',)))
  bad = dict(batch, audio=np.full_like(batch['audio'], np.inf))
  copy = copies.begin(task, state, state.variables, 0)
  skipped = step(copy, bad)
  chex.assert_trees_all_equal(skipped.variables, copy.variables)
  assert int(skipped.step) == 1
  moved = step(copy, batch)
  for key in ('params', 'batch_stats'):
    for name, differs in (('audio', True), ('visual', key == 'batch_stats')):
      before, after = (
        jax.tree.leaves(tree.variables[key][f'encoders_{name}'])
        for tree in (copy, moved)
      )
      assert np.any(before[0] != after[0]) == differs, (key, name)


def test_keys_of_copies_differ(made):
  _, state, _ = made
  keys = [state.key] + [
    copies.key_of(state._replace(step=jnp.int32(step)), number)
    for number, step in ((0, 0), (1, 0), (0, 5))
  ]
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 4
