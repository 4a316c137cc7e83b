"""Optimizer states of which parts stand still, or start anew."""

import jax
import numpy as np
import optax
import pytest

from experiments.configs import handwritten
from experiments.core import training
from experiments.methods import moments
from tests import checks
from tests.experiments.methods import recorded

RATE = optax.linear_schedule(0.1, 0.0, 20)


@pytest.mark.quick
def test_a_part_that_stood_still_then_learns_like_a_new_one():
  """Adam corrects the bias of its moments, and schedules have gone on."""

  def part_of(path):
    return path[0] if path[0] != 'head' else None

  optimizer = moments.standing_still(
    moments.apart(optax.adam(RATE), part_of), part_of
  )
  anew = optax.adam(lambda count: RATE(count + 5))
  params = {name: np.float32([1.0, -2.0]) for name in ('one', 'two', 'head')}
  state = optimizer.init(params)
  of_one, of_all = anew.init(params['one']), optax.adam(RATE).init(params)
  generator = np.random.default_rng(0)
  for step in range(8):
    gradient = {k: np.float32(generator.normal(size=2)) for k in params}
    still = {'one': np.float32(step < 5), 'two': np.float32(0)}
    updates, state = optimizer.update(gradient, state, params, still=still)
    expected, of_all = optax.adam(RATE).update(gradient, of_all, params)
    expected['one'] = np.zeros(2)
    if step >= 5:
      expected['one'], of_one = anew.update(
        gradient['one'], of_one, params['one']
      )
    checks.assert_close(updates, expected, rtol=1e-6)


def begun(recipe):
  """An experiment that learns by Adam, and a batch."""
  config = handwritten.get_config(f'two,{recipe},smoke')
  config.optimizer = {'name': 'adam', 'learning_rate': 0.01}
  batch = {'label': np.arange(6), 'fou': np.ones((6, 76), np.float32)}
  batch['pix'] = np.ones((6, 240), np.float32)
  return training.make(config, 15), batch


def counts_of(state):
  """Part -> the count of Adam's steps."""
  found = optax.tree.get_all_with_path(state.opt_state, 'ScaleByAdamState')
  return {
    part: adam.count
    for path, adam in found
    for part in ('fou', 'pix', '')
    if f"'{part}'" in jax.tree_util.keystr(path)
  }


@pytest.mark.parametrize('recipe', ['smp', 'g2d', 'aug', 'reconboost'])
def test_methods_with_parts_that_stand_still_keep_their_states_apart(recipe):
  experiment, batch = begun(recipe)
  state = jax.eval_shape(experiment.init, jax.random.key(0), batch)
  assert counts_of(state).keys() == {'fou', 'pix', ''}


def test_encoders_that_are_moved_start_adam_anew():
  experiment, batch = begun('relearning')
  variables = recorded.drawn(experiment.fresh, batch)
  state = experiment.begin(variables, jax.random.key(0), batch)
  after, _ = recorded.compiled(experiment.train_step)(state, batch)
  rehearsal = experiment.rehearsal
  moved = rehearsal.end(after, rehearsal.begin(after, batch))
  assert counts_of(moved) == {'fou': 0, 'pix': 0, '': 1}
