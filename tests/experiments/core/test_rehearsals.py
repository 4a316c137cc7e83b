"""Rehearsals: when they are due, on which rows, and resumed."""

import time

import jax
import numpy as np
import pytest

from experiments import train
from experiments.core import configuration
from experiments.core import data
from experiments.core import rehearsals
from experiments.methods import base
from tests import running
from tests.running import smoke

pytestmark = pytest.mark.usefixtures('reused_programs')


def counting(every_epochs, passes, **fields):
  """A method whose rehearsals collect the rows that they see."""

  def step(state, scratch, batch):
    del state
    return [*scratch, batch['row']]

  rehearsal = base.Rehearsal(
    every_epochs=every_epochs,
    begin=lambda *_: [],
    passes=tuple(base.Pass(split, n, step) for split, n in passes),
    end=lambda _, scratch: scratch,
    **fields,
  )
  return rehearsals.Rehearsals(rehearsal, 15, lambda batches: batches[0])


def test_a_rehearsal_sees_the_coming_batches_and_training_has_them_again():
  config = smoke()
  inputs = data.open_data(config, 4)
  upcoming = [next(inputs.train)['row'] for _ in range(9)]
  inputs.train.seek(7)
  one = counting(1.0, [('train', 3 / 15), ('validation', 1.0)])
  rows, seconds = one.run(None, [inputs], 4)
  for seen, expected in zip(rows[:3], upcoming[4:7], strict=True):
    np.testing.assert_array_equal(seen, expected)
  validation = [batch['row'] for batch in inputs.evaluation('validation')]
  np.testing.assert_array_equal(
    np.concatenate(rows[3:]), np.concatenate(validation)
  )
  np.testing.assert_array_equal(next(inputs.train)['row'], upcoming[7])
  assert seconds >= 0


def test_the_time_of_a_rehearsal_includes_its_end():
  def sleep(scratch):
    time.sleep(0.2)
    return scratch

  rehearsal = base.Rehearsal(
    every_epochs=1.0,
    begin=lambda *_: np.float32(1),
    passes=(base.Pass('train', 1 / 15, lambda _, scratch, __: scratch),),
    end=lambda _, scratch: jax.pure_callback(sleep, scratch, scratch),
  )
  one = rehearsals.Rehearsals(rehearsal, 15, lambda batches: batches[0])
  inputs = data.open_data(smoke(), 4)
  for _ in range(2):
    _, seconds = one.run(None, [inputs], 0)
    assert seconds >= 0.2


def test_rehearsals_are_due_at_the_start_of_every_epoch_or_once():
  due = [step for step in range(40) if counting(1.0, []).is_due(step)]
  assert due == [0, 15, 30]
  assert [s for s in range(40) if counting(None, []).is_due(s)] == [0]
  half = counting(0.5, [])
  assert [s for s in range(20) if half.is_due(s)] == [0, 8, 16]
  some = counting(0.5, [], first=1, last=3)
  assert [s for s in range(60) if some.is_due(s)] == [8, 16, 24]


def test_a_run_with_rehearsals_is_resumed_exactly(tmp_path):
  config = configuration.with_recipe(smoke(steps=20), 'pmr')
  train.train(config, tmp_path / 'whole')
  # Batches: one for the first state, two for the first rehearsal, 15 steps, and
  # one of the second rehearsal.
  with running.ending_at(20), pytest.raises(KeyboardInterrupt):
    train.train(config, tmp_path / 'stopped')
  train.train(config, tmp_path / 'stopped')
  running.assert_same_run(tmp_path / 'stopped', tmp_path / 'whole', config)
