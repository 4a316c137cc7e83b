"""States own their buffers, can be saved, and count steps endlessly."""

import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests.mimo_jax import three_objectives

pytestmark = pytest.mark.slow


_NAMES = three_objectives.OBJECTIVES
_PARAMS = {'audio': {'w': jnp.ones((2, 3))}, 'visual': {'w': jnp.ones((3, 2))}}


def _transformations():
  for name in weightings.__all__:
    if name != 'constant':
      rule = getattr(weightings, name)()
      yield name, mimo_jax.balance(rule, objectives=_NAMES)

  def encoder_of(path):
    return path[0]

  for groups in (weightings.dwa(), weightings.moco()):
    yield (
      f'groups, {groups.needs}',
      mimo_jax.balance(groups, objectives=_NAMES, groups=encoder_of),
    )
  for wrap in (mimo_jax.diagnosed, mimo_jax.normalized):
    rule = wrap(weightings.gradnorm())
    yield wrap.__name__, mimo_jax.balance(rule, objectives=_NAMES)
  yield 'every', mimo_jax.every(mimo_jax.balance(objectives=_NAMES), steps=3)
  yield (
    'orthogonal_head',
    mimo_jax.orthogonal_head(
      lambda path: path[0] == 'audio', updates_per_batch=2, steps_per_epoch=9
    ),
  )
  yield 'ogm', mimo_jax.ogm(encoder_of, ('audio', 'visual'))
  yield 'ogm_ge', mimo_jax.ogm_ge(encoder_of, ('audio', 'visual'))
  yield (
    'mmpareto',
    mimo_jax.mmpareto(encoder_of, ('fused', 'audio', 'visual')),
  )


_ALL = dict(_transformations())


@pytest.mark.parametrize('name', _ALL)
def test_a_fresh_state_can_be_donated(name):
  state = _ALL[name].init(_PARAMS)
  addresses = [
    leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state, _PARAMS))
  ]
  assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize('name', ['uw', 'imtl_l'])
def test_donating_a_state_keeps_the_arrays_it_was_made_from(name):
  given = jnp.array([0.1, 0.2, 0.3])
  rule = getattr(weightings, name)(init=given)
  move = jax.jit(lambda state: jax.tree.map(jnp.sin, state), donate_argnums=0)
  move(rule.init(3))
  np.testing.assert_allclose(given, [0.1, 0.2, 0.3])
  move(rule.init(3))


@pytest.mark.parametrize('name', _ALL)
def test_states_are_saved_and_restored(name):
  state = _ALL[name].init(_PARAMS)
  data = flax.serialization.to_bytes(state)
  blank = jax.tree.map(jnp.zeros_like, state)
  for restored in (
    flax.serialization.from_bytes(blank, data),
    pickle.loads(pickle.dumps(state)),
  ):
    jax.tree.map(np.testing.assert_array_equal, restored, state)


_LAST = np.iinfo(np.int32).max


def test_a_schedule_stays_at_its_last_step():
  """The count does not wrap around where int32 ends."""
  schedule = optax.linear_schedule(3.0, 1.0, 10)
  rule = mimo_jax.mimo(penalty=schedule)
  observation = mimo_jax.Observation(jnp.array([0.3, 0.2, 0.9]))
  state = rule.init(3)._replace(step=jnp.int32(_LAST))
  for _ in range(3):
    weights, state = rule.update(observation, state)
    np.testing.assert_allclose(weights[1:].sum(), 1, rtol=1e-6)


@pytest.mark.parametrize(
  'name', ['cr_mogm', 'db_mtl', 'excess_mtl', 'famo', 'gradnorm', 'pcd']
)
def test_after_the_last_countable_step_no_rule_starts_again(name):
  rule = getattr(weightings, name)()
  rows = np.float32([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
  observation = mimo_jax.Observation(
    jnp.ones(2), rows @ rows.T, rows, losses_after=jnp.ones(2)
  )
  update = jax.jit(rule.update)
  _, state = update(observation, rule.init(2, jnp.zeros(3)))
  last = state._replace(step=np.full_like(state.step, _LAST))
  _, after = update(observation, last)
  np.testing.assert_array_equal(after.step, last.step)


def test_epochs_continue_after_the_last_countable_step():
  rule = weightings.dwa(steps_per_epoch=3)
  state = rule.init(2)
  for step in range(7):
    observation = mimo_jax.Observation(jnp.array([0.5, 0.25]) * (1 + step))
    _, state = rule.update(observation, state)
    assert int(state.step) == (step + 1) % 3
