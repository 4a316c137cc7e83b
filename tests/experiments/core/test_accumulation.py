"""Gradient accumulation: balancing each part of a batch, or the whole."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import memory
from experiments.benchmark import subroutine
from experiments.core import configuration
from experiments.core import placement
from experiments.core import training
from experiments.methods import copies
from tests import running


def smoke(batches, balance):
  """Makes a configuration that accumulates, with plain gradient descent."""
  return running.smoke(
    optimizer={'learning_rate': 0.1, 'momentum': 0.0},
    accumulation={'batches': batches, 'balance': balance},
  )


@functools.cache
def compiled(parts, balance, rule):
  """Returns functions for a state and a step, compiled once for all tests."""
  config = configuration.with_recipe(smoke(parts, balance), rule)
  experiment = training.make(config, 15)
  return jax.jit(experiment.init), jax.jit(experiment.train_step)


def run(batches, parts, balance='each', rule='mimo'):
  """Returns states after each batch, and the last metrics."""
  init, step = compiled(parts, balance, rule)
  state = init(jax.random.key(3), batches[0])
  states = [state]
  for batch in batches:
    state, metrics = step(state, batch)
    states.append(state)
  return states, metrics


@pytest.mark.parametrize('rule', ['mimo', 'mgda'])
def test_accumulated_losses_give_the_step_of_the_whole_batch(rule):
  batches = running.batches_of(running.smoke(), 0, 2)
  cut, metrics = run(batches, 4, 'accumulated', rule)
  whole, expected = run(batches, 1, rule=rule)
  chex.assert_trees_all_close(
    cut[-1].params, whole[-1].params, rtol=1e-4, atol=1e-6
  )
  chex.assert_trees_all_close(metrics, expected, rtol=1e-4)


def test_each_part_is_balanced_and_the_optimizer_gets_the_mean():
  batches = running.batches_of(running.smoke(), 1, 4)
  states, _ = run(batches, 2)
  start, waiting, moved, *_ = states
  chex.assert_trees_all_equal(waiting.params, start.params)
  # The step of each batch alone, from the same start.
  alone = []
  for batch in batches[:2]:
    (before, after), _ = run([batch], 1)
    chex.assert_trees_all_equal(before.params, start.params)
    alone.append(after.params)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *alone)
  chex.assert_trees_all_close(moved.params, mean, rtol=1e-5, atol=1e-7)
  chex.assert_trees_all_equal(states[3].params, moved.params)
  assert int(states[-1].step) == 4


def test_a_part_that_is_not_finite_is_left_out():
  good, bad, other = running.batches_of(running.smoke(), 2, 3)
  bad = bad | {'pix': np.full_like(bad['pix'], np.nan)}
  with_bad, _ = run([good, bad, other], 2)
  without, _ = run([good, other], 2)
  chex.assert_trees_all_close(
    with_bad[-1].params, without[-1].params, rtol=1e-6
  )
  chex.assert_tree_all_finite(with_bad[-1].params)


@pytest.mark.parametrize(('batches', 'updates'), [(2, 1), (1, 3)])
def test_schedules_count_steps_not_updates(batches, updates):
  halved = {'name': 'exponential_decay', 'init_value': 1.0, 'decay_rate': 0.5}
  rate = halved | {'transition_steps': 4, 'staircase': True}
  config = configuration.with_values(
    smoke(batches, 'each'), {'optimizer.learning_rate': rate}
  )
  optimizer = training._make_optimizer(config, updates_per_step=updates)
  state = optimizer.init(np.float32(0))
  moved = []
  of_four_steps = 4 * updates // batches
  for _ in range(2 * of_four_steps):
    update, state = optimizer.update(np.float32(1), state)
    moved.append(float(update))
  assert moved == [-1.0] * of_four_steps + [-0.5] * of_four_steps


def test_teachers_and_copies_accumulate_as_the_model_does():
  halved = {'name': 'exponential_decay', 'init_value': 0.1, 'decay_rate': 0.5}
  config = configuration.with_recipe(smoke(2, 'each'), 'pretrained_frozen')
  rate = halved | {'transition_steps': 2, 'staircase': True}
  config = configuration.with_values(config, {'optimizer.learning_rate': rate})
  task = training._make_task(config, 15, placement.make('single'))
  model = task.model.clone(heads='auxiliary', detach_heads=False)
  batches = running.batches_of(config, 0, 4)
  state = training.make(config, 15).init(jax.random.key(0), batches[0])
  copy = copies.begin(task, state, state.variables, 0)
  step = jax.jit(copies.stepper(task, model, task.modalities))
  for batch in batches:
    copy = step(copy, batch)

  # By hand: two updates, by the mean gradients of two batches each.
  def loss(params, pair):
    total = 0
    for batch in pair:
      logits = model.apply({'params': params}, batch, train=True)
      own = {name: logits[name] for name in task.modalities}
      losses = task.losses_of(own, batch[config.target])
      total += sum(losses.values()) / 2
    return total

  expected = state.params
  for pair, size in ((batches[:2], 0.1), (batches[2:], 0.05)):
    gradient = jax.grad(loss)(expected, pair)
    expected = jax.tree.map(lambda p, g, s=size: p - s * g, expected, gradient)
  chex.assert_trees_all_close(copy.params, expected, rtol=1e-4, atol=1e-6)


def test_methods_and_rules_that_cannot_accumulate_are_refused():
  for batches, balance, recipe, message in (
    (0, 'each', 'joint', 'batches of at least 1'),
    (2, 'all', 'joint', "'each' or 'accumulated'"),
    (2, 'each', 'mla', 'takes 2 updates per batch'),
    (2, 'accumulated', 'pmr', "'pmr' is not known to be a mean"),
  ):
    config = configuration.with_recipe(smoke(batches, balance), recipe)
    with pytest.raises(ValueError, match=message):
      training.make(config, 15)


def test_a_batch_that_cannot_be_divided_is_refused():
  config = smoke(7, 'accumulated')
  (batch,) = running.batches_of(config, 0, 1)
  experiment = training.make(config, 15)
  state = jax.eval_shape(experiment.init, jax.random.key(0), batch)
  with pytest.raises(ValueError, match=r'batches=7'):
    jax.eval_shape(experiment.train_step, state, batch)


def test_a_donated_state_lends_its_memory_to_the_next():
  config = smoke(1, 'each')
  assert config.donate_state
  batch, _ = running.batches_of(config, 0, 2)
  changes = {'kept': {'donate_state': False}}
  changes['two steps'] = {'accumulation.batches': 2}
  configs = {'default': config} | {
    name: configuration.with_values(config, values)
    for name, values in changes.items()
  }
  needs = subroutine.compile_all(configs, batch, memory.compile_update)
  state = jax.eval_shape(
    training.make(config, 15).init, jax.random.key(0), batch
  )
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  saved = needs['kept'].megabytes - needs['default'].megabytes
  # It saves at most the state, less what is freed before the peak.
  assert 0.5 * size / 1e6 < saved < 1.02 * size / 1e6
  # The gradients that are kept take less than a second copy of the state.
  assert size / 1e6 < needs['two steps'].megabytes < needs['kept'].megabytes


@pytest.mark.parametrize('donate', [True, False])
def test_only_a_donated_state_is_used_up(donate):
  state = jnp.ones(1000)
  step = placement.make('single').step(
    lambda state, batch: (state + batch, ()), state, donate
  )
  new, _ = step(state, jnp.ones(1000))
  assert float(new[0]) == 2
  assert state.is_deleted() == donate


def test_every_option_that_saves_memory_is_in_the_configuration():
  variants = memory.variants(16)
  default = configuration.flatten(variants.pop('default'))
  for name, config in variants.items():
    changed = {
      key
      for key, value in configuration.flatten(config).items()
      if value != default[key]
    }
    assert changed, name
    assert all(
      re.match(r'accumulation\.|donate_state$|model\.', key) for key in changed
    )
