"""Costs of balancing, measured on tiny models."""

import re

import numpy as np
import pytest

from experiments.benchmark import device
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.core import configuration
from experiments.core import training
from experiments.methods import base
from experiments.methods import recipes as recipes_lib
from mimo_jax.nn.encoders import _resnet
from tests import running
from tests.experiments.report.made_up import tables_of


def test_the_subroutine_is_the_extra_time_of_a_step_within_a_round():
  config = subroutine.make_config(16)
  for encoder in config.model.encoders.values():
    with config.unlocked():
      encoder.update({'name': 'LeNet', 'base_width': 2, 'num_blocks': 1})
      del encoder['width']
      del encoder['dtype']
  recipes = ('joint', 'mimo', 'pmr')
  configs = {name: configuration.with_recipe(config, name) for name in recipes}
  batch = subroutine.pictures(config, 4, 8)
  costs = subroutine.measure(configs, batch, rounds=2)
  assert costs['joint'].added == costs['joint'].error == 0
  assert costs['mimo'].rehearsal == 0 < costs['pmr'].rehearsal
  assert all(cost.megabytes > 0 for cost in costs.values())
  # MIMO needs the operations of joint training, some on K numbers, and those to
  # take the heads' gradients to the encoders.
  more = costs['mimo'].gigaflops / costs['joint'].gigaflops - 1
  assert 0 <= more < 0.03
  assert costs['joint'].gigaflops < costs['pmr'].gigaflops
  difference = costs['mimo'].step.rounds - costs['joint'].step.rounds
  np.testing.assert_allclose(costs['mimo'].added, np.median(difference))


def test_every_recipe_accepts_the_model_of_the_benchmark():
  config = subroutine.make_config(16)
  for name in recipes_lib.tuned():
    changed = configuration.with_recipe(config, name)
    training.make(changed, subroutine.STEPS_PER_EPOCH)  # raises if it does


def test_the_time_of_rehearsals_is_divided_among_the_steps_of_a_run():
  def walk(*_):
    return ()

  train, held = (
    base.Pass('train', 2.0, walk),
    base.Pass('validation', 1.0, walk),
  )
  # A run of 30 epochs of 100 steps, and 10 batches of validation.
  for every, first, last, times in (
    (None, 0, None, 1),
    (10.0, 0, None, 3),
    (20.0, 1, 3, 1),
    (4.0, 1, 3, 3),
    (40.0, 1, None, 0),
  ):
    rehearsal = base.Rehearsal(
      every,
      lambda *_: (),
      (train, held),
      lambda state, _: state,
      first=first,
      last=last,
    )
    found = list(subroutine.between(rehearsal, np.ones(2), {'x': np.ones(3)}))
    shares, programs = zip(*found, strict=True)
    expected = np.array([200, 10, 1]) * times / 3000
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    assert len(programs[2].run()) == 2


def test_the_subroutine_is_compared_with_the_median_of_costly_rivals():
  def cost(added, rehearsal=0.0):
    times = timing.Times(np.array([1.0 + added]), 1.0 + added)
    return subroutine.Cost(times, added, 0.001, rehearsal, 5.0, 0.2)

  costs = {
    'joint': cost(0.0),
    'mimo': cost(0.002),
    'mgda': cost(0.1),
    'umt': cost(0.02, rehearsal=0.04),
    'mla': cost(0.01),
    'ogm': cost(9.0),  # needs no more than the one gradient
  }
  text = subroutine.summary(costs)
  assert 'adds 2.00 ± 1.00 ms, at most 4.00 ' in text
  assert text.endswith(
    'mgda, umt, mla is 60.00 ms; what mimo adds cannot be told from nothing'
  )
  text = subroutine.summary(costs | {'mimo': cost(0.003)})
  assert text.endswith('is 60.00 ms, 20 times as much')
  costs['umt'] = costs['umt']._replace(gigaflops=0.25)
  assert tables_of(subroutine.table(costs))[0][4][4:] == ['1.06', '5.0', '1.25']


def test_the_device_benchmark_makes_the_changes_that_it_names():
  configs = device.configs(['mgda'], 'bfloat16', 8)
  joint, mgda = configs['joint'], configs['mgda']
  assert joint.weighting.to_dict() == {'name': 'joint'}
  assert mgda.weighting.to_dict() == {'name': 'mgda'}
  for encoder in mgda.model.encoders.values():
    assert (encoder.dtype, encoder.width) == ('bfloat16', 8)

  def cost(seconds):
    times = timing.Times(np.array([seconds, seconds]), seconds)
    return subroutine.Cost(times, 0.0, 0.0, 0.0, 12.3, 0.2)

  table = device.steps_table({'joint': cost(0.5), 'mgda': cost(0.75)})
  ((_, *rows),) = tables_of(table)
  assert rows == [
    ['joint', '2.00', '1.00', '12'],
    ['mgda', '1.33', '1.50', '12'],
  ]
  ((_, *rows),) = tables_of(device.bandwidth(1000, (2, 12), 'bfloat16', 2))
  assert [row[0] for row in rows] == ['2', '12']


@pytest.mark.slow
def test_weights_from_features_are_compared_with_joint_training(monkeypatch):
  monkeypatch.setattr(_resnet, '_encoded', running.one_block)
  config = device.configs(['mgda'], 'float32', 2)['mgda']
  shapes = {'audio': (32, 8, 1), 'visual': (2, 8, 8, 3)}
  batch = subroutine.made_up_batch(config, 4, shapes)
  # Bytes, as from the loader, which the step normalises.
  batch['visual'] = (32 * (batch['visual'] + 4)).astype(np.uint8)
  ((_, *rows),) = tables_of(device.of_features(config, ['pcgrad'], batch, 2))
  assert [name for name, *_ in rows] == ['joint', 'pcgrad']
  assert rows[0][2] == rows[0][4] == '1.00'
  # One backward pass, with at most one gradient in memory.
  assert float(rows[1][4]) < 1.1


@pytest.mark.slow
def test_passes_over_leaves_are_compared_with_those_over_one_array(monkeypatch):
  monkeypatch.setattr(
    device.programs, 'resnet18_shapes', lambda: [(3, 5), (7,), ()]
  )
  ((head, *rows),) = tables_of(device.leaves(3, 'bfloat16', 2))
  assert head[:2] == ['K = 3, bfloat16', '3 leaves, ms']
  assert [name for name, *_ in rows] == ['gramian', 'combine']
  for _, many, one, ratio in rows:
    assert float(ratio) > 0 and re.fullmatch(r'\d+\.\d{3}', many)
    assert re.fullmatch(r'\d+\.\d{3}', one)
