"""Copies of a model, and teachers, and how confident they are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import copies
from experiments.methods import weighted
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_in_a_regression_confident_teachers_have_small_errors():
  task = recorded.make_task(num_classes=1)
  state, batch = recorded.begin(weighted.make(task))
  teachers = copies.teachers(task, 1.0, ask='validation')
  teach, ask = teachers.rehearsal.passes
  assert (teach.split, ask.split) == ('train', 'validation')
  scratch = teachers.rehearsal.begin(state, batch)
  targets = np.array([0.5, -1.25, 0.5, 2.0, 0.75, -1.0])
  batch['label'] = jnp.float32(targets)
  for count in (6, 4):  # the second batch is padded
    rows = batch | {'mask': jnp.arange(6) < count}
    scratch = recorded.compiled(ask.step)(state, scratch, rows)
  outputs = recorded.apply(teachers.model, scratch.copy.variables, batch)
  sure = scratch.sureness.value
  for name, found in zip(task.modalities, sure, strict=True):
    squares = (np.squeeze(outputs[name]) - targets) ** 2
    expected = -(squares.sum() + squares[:4].sum()) / 10
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope='module')
def made():
  """Task, state and batch, on encoders with batch statistics."""
  task = recorded.make_task(encoder=recorded.Normalised)
  return task, *recorded.begin(weighted.make(task))


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
