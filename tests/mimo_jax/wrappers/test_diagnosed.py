"""`diagnosed`: cosines and lengths of gradients in a rule's state."""

import jax
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests import jacobians
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.wrappers.rules import direction_of
from tests.mimo_jax.wrappers.rules import first_step

RULES = {
  'gramian': weightings.cagrad(),
  'negative': mimo_jax.unit_gradients(weightings.constant([0.5, 2.0, -1.0])),
  'coordinates': weightings.graddrop(leak=0.2),
  'direction': weightings.moco(),
}


@pytest.mark.parametrize('kind', RULES)
@pytest.mark.parametrize('scale', [1.0, 1e-9])
def test_cosines_and_lengths_are_those_of_the_rows(kind, scale):
  rows = scale * jacobians.conflicting(3, 6)
  rows[1] *= 3.0
  rows[2] = -rows[2]  # now one of three pairs conflicts
  weights, state = first_step(mimo_jax.diagnosed(RULES[kind]), rows)
  expected, inner = first_step(RULES[kind], rows)
  checks.assert_equal(weights, expected)
  checks.assert_equal(state.weighting, inner)
  lengths = np.linalg.norm(rows, axis=1)
  units = rows / lengths[:, None]
  direction = direction_of(weights, rows)
  np.testing.assert_allclose(state.lengths, lengths, rtol=1e-5)
  np.testing.assert_allclose(state.cosines, units @ units.T, atol=1e-5)
  np.testing.assert_allclose(state.conflicting, 1 / 3, rtol=1e-6)
  np.testing.assert_allclose(
    state.direction_cosines,
    units @ direction / np.linalg.norm(direction),
    atol=1e-3,
  )


def test_zero_gradients_and_a_zero_direction_have_cosine_zero():
  rows = np.array([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
  _, state = first_step(mimo_jax.diagnosed(weightings.mgda()), rows)
  np.testing.assert_allclose(state.direction_cosines, np.zeros(3), atol=1e-3)
  np.testing.assert_allclose(state.cosines[0], [1, -1, 0], atol=1e-6)
  assert state.lengths[2] == 0
  assert state.conflicting == pytest.approx(1 / 3)
  _, state = first_step(mimo_jax.diagnosed(weightings.mgda()), rows[:1])
  assert state.conflicting == 0


def test_diagnostics_are_read_from_the_state_of_balance():
  for always in (False, True):
    rule = mimo_jax.diagnosed(mimo_jax.mimo(), always=always)
    optimizer = optax.chain(
      mimo_jax.balance(rule, objectives=three.OBJECTIVES), optax.sgd(0.1)
    )
    _, state = checks.first_step(optimizer, three.named_losses_of, three.PARAMS)
    cosines = optax.tree.get(state, 'cosines')
    assert (cosines is None) == (not always)
  gradients = jax.jit(jax.jacrev(three.losses_of))(three.PARAMS)
  units = [each / np.linalg.norm(each) for each in map(checks.flat, gradients)]
  np.testing.assert_allclose(cosines, np.inner(units, units), atol=1e-5)
  assert mimo_jax.diagnosed(mimo_jax.mimo()).needs == 'losses'


def test_rules_of_several_batches_are_refused():
  with pytest.raises(ValueError, match='needs the cross_gramian'):
    mimo_jax.diagnosed(weightings.modo())


def test_anything_but_a_boolean_is_refused():
  message = "always='no'; expected False or True"
  rule = weightings.sum()
  with pytest.raises(ValueError, match=message):
    mimo_jax.diagnosed(rule, always='no')
