"""Uni-modal teachers, and how confident they are."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import teachers
from experiments.methods import weighted
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_in_a_regression_confident_teachers_have_small_errors():
  task = recorded.make_task(num_classes=1)
  state, batch = recorded.begin(
    weighted.make(task), kernel=recorded.KERNEL[:, :1]
  )
  made = teachers.of_task(task, 'any', 1.0, 'epochs')
  rehearsal = teachers.asked(
    task, made, 'validation', lambda _, *learnt: learnt
  )
  teach, ask = rehearsal.passes
  assert (teach.split, ask.split) == ('train', 'validation')
  scratch = rehearsal.begin(state, batch)
  targets = np.array([0.5, -1.25, 0.5, 2.0, 0.75, -1.0])
  batch['label'] = jnp.float32(targets)
  for count in (6, 4):  # the second batch is padded
    rows = batch | {'mask': jnp.arange(6) < count}
    scratch = recorded.compiled(ask.step)(state, scratch, rows)
  variables, sure = rehearsal.end(state, scratch)
  outputs = recorded.apply(made.model, variables, batch)
  for name, found in zip(task.modalities, sure, strict=True):
    squares = (np.squeeze(outputs[name]) - targets) ** 2
    expected = -(squares.sum() + squares[:4].sum()) / 10
    np.testing.assert_allclose(found, expected, rtol=1e-5)
