"""Groups behave as each would alone; and compiling many groups."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three

OBJECTIVES = three.OBJECTIVES
ALIKE = {'b': (3,), 'w': (2, 4)}
GROUPS = {
  'one': (ALIKE, jnp.float32),
  'two': (ALIKE, jnp.float32),
  'still': (ALIKE, jnp.float32),  # has zero gradients
  'narrow': ({'w': (7,)}, jnp.bfloat16),
  'wide': ({'b': (3,), 'w': (5000,)}, jnp.float32),
}
RULES = {
  'cr_mogm': weightings.cr_mogm(),
  'gradnorm': weightings.gradnorm(),
  'gradvac': weightings.gradvac(),
  'graddrop': weightings.graddrop(0.2),
  'trimmed_mean': weightings.trimmed_mean(),
  'moco': weightings.moco(),
  'modo': weightings.modo(step_size=0.01),
  'excess_mtl': weightings.excess_mtl(),
}


def group_of(path):
  return path[0]


def values(seed):
  """Makes a pytree of all groups; one objective does not reach 'two'."""
  each = {}
  for i, (name, (shapes, dtype)) in enumerate(GROUPS.items()):
    size = 0.0 if name == 'still' else 0.3 * (1 + i)
    if name == 'two' and seed % len(OBJECTIVES) == 1:
      size = 0.0
    each[name] = {
      leaf: jnp.asarray(
        size * checks.standard_normal(*shape, seed=100 * seed + 10 * i + j),
        dtype,
      )
      for j, (leaf, shape) in enumerate(shapes.items())
    }
  return each


PARAMS = values(90)


def batches():
  """Returns three steps' losses, gradients and rows; one is absent once."""
  for step, away in enumerate((None, 2, None)):
    rows = [4.0, 3.0, 2.0]
    losses = np.float32([0.9, 0.4, 1.7]) * np.float32(0.9) ** step
    if away is not None:
      rows[away] = 0.0
    gradients = [values(len(OBJECTIVES) * step + i) for i in range(3)]
    yield three.named(list(losses)), three.named(gradients), three.named(rows)


@functools.cache
def step_of(rule, groups=None):
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, groups=groups)

  @jax.jit
  def step(updates, state, params, losses, present):
    other = jax.tree.map(lambda leaf: (0.7 * leaf).astype(leaf.dtype), updates)
    other['joint'] = updates['visual']
    return balance.update(
      updates,
      state,
      params,
      losses=losses,
      present=present,
      independent_updates=(updates, other),
    )

  return balance.init, step


@pytest.mark.slow
@pytest.mark.parametrize('name', RULES)
def test_groups_of_any_shape_behave_as_they_would_alone(name):
  init, step = step_of(RULES[name], group_of)
  init_alone, step_alone = step_of(RULES[name])
  state = init(PARAMS)
  states = {group: init_alone(PARAMS[group]) for group in GROUPS}
  for losses, gradients, rows in batches():
    updates, state = step(gradients, state, PARAMS, losses, rows)
    assert checks.types_of(updates) == checks.types_of(PARAMS)
    for group, params in PARAMS.items():
      own = {objective: each[group] for objective, each in gradients.items()}
      expected, states[group] = step_alone(
        own, states[group], params, losses, rows
      )
      narrow = GROUPS[group][1] != jnp.float32
      checks.assert_close(
        updates[group], expected, 2**-8 if narrow else 1e-5, 1e-6, group
      )
      weights = np.asarray(state.weights[group])
      checks.assert_close(weights, states[group].weights, 1e-5, 1e-6, group)
      if group != 'still':
        assert np.abs(checks.flat(updates[group])).max() > 1e-2, group
      if rows['audio'] == 0:
        assert weights[OBJECTIVES.index('audio')] == 0, group
  assert np.abs(state.weights['one'] - state.weights['two']).max() > 1e-2


# Tracing and compiling.


def of_shapes(rule, shapes):
  """Returns a step and its arguments; each tensor is a group."""
  params = {
    f'{i:02}': jax.ShapeDtypeStruct(shape, jnp.float32)
    for i, shape in enumerate(shapes)
  }
  balance = mimo_jax.balance(
    rule, objectives=OBJECTIVES, groups=lambda path: path
  )

  def step(updates, state, params, losses):
    return balance.update(updates, state, params, losses=losses)

  losses = three.named([jax.ShapeDtypeStruct((), jnp.float32)] * 3)
  state = jax.eval_shape(balance.init, params)
  return jax.jit(step), (three.named([params] * 3), state, params, losses)


@pytest.mark.parametrize('rule', ['cr_mogm', 'trimmed_mean'])
def test_a_rule_is_traced_once_for_groups_that_look_alike(rule):
  seen = collections.Counter()

  def update(observation, state):
    seen[str(jax.tree.map(jnp.shape, observation.jacobian))] += 1
    return RULES[rule].update(observation, state)

  step, arguments = of_shapes(
    RULES[rule]._replace(update=update), [(3,), (2, 2), (3,), (3,), (2, 2)]
  )
  step.trace(*arguments)
  # A rule that needs the Gramian does not see the shapes of groups.
  expected = 1 if rule == 'cr_mogm' else 2
  assert len(seen) == expected and set(seen.values()) == {1}


def test_all_groups_have_one_solver():
  for count in (1, 2, 7):
    step, arguments = of_shapes(
      RULES['cr_mogm'], [(3 + i,) for i in range(count)]
    )
    assert step.lower(*arguments).as_text().count('stablehlo.while') == 1


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['mgda', 'sign agreement'])
def test_compiled_size_grows_at_most_linearly_with_the_number_of_groups(rule):
  lines = []
  for count in (8, 16, 32):
    shapes = [(3 + i,) for i in range(count)]
    step, arguments = of_shapes(three.RULES[rule], shapes)
    lines.append(step.lower(*arguments).compile().as_text().count('\n'))
  few, some, many = lines
  assert many - some < 2.3 * (some - few)  # 2 of a straight line
