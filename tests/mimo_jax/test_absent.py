"""An absent objective has no weight and changes nothing for the others.

A modality that is absent from a batch has a gradient of zeros.
"""

import jax
import numpy as np
import pytest

from mimo_jax import weightings
from tests import checks
from tests import jacobians
from tests import properties

_ABSENT, _STEPS = 1, 12
# Rules that see only losses cannot see absence, and have weights for all.
_RULES = {
  name: getattr(weightings, name)
  for name in weightings.__all__
  if name != 'constant'
  and getattr(weightings, name)().needs != 'losses'
  and name != 'famo'
}
_MADE = {name: properties.make(name) for name in _RULES}
_SIMPLEX = {
  name for name, rule in _RULES.items() if 'simplex' in rule.__doc__
} - {'nash_mtl', 'fairgrad'}
_PATTERNS = {
  'always': lambda _: True,
  'now and then': lambda step: step % 3 == 1,
  'first': lambda step: step < 5,
}


def _batches(size):
  """For each step, returns Jacobians of three batches, and falling losses."""
  random = np.random.RandomState(5)
  mean = jacobians.generic(size, 7)
  for step in range(_STEPS):
    rows = mean + 0.4 * random.normal(size=[3, size, 7])
    yield rows, (1.5 + np.arange(size)) * 0.9**step


def _run(rule, present, rows_of=lambda rows: rows, absent_loss=0.0):
  """Returns weights and directions of all steps; `rows_of` selects rows."""
  update, _ = properties.compiled(rule)
  state, seen = None, []
  for step, (batches, losses) in enumerate(_batches(3)):
    if not present(step):
      batches[:, _ABSENT], losses[_ABSENT] = 0, absent_loss
    batches = batches[:, rows_of(np.arange(3))]
    losses = losses[rows_of(np.arange(3))]
    if state is None:
      state = rule.init(len(losses), jacobians.params_of(batches[0]))
    observation = jacobians.observe(batches[0], losses)
    cross = (batches[1] @ batches[2].T).astype(np.float32)
    observation = observation._replace(cross_gramian=cross)
    weights, state = update(jacobians.seen_by(rule, observation), state)
    seen.append(properties.weighed(batches[0], weights))
  return [np.stack(each) for each in zip(*seen, strict=True)], state


@pytest.mark.parametrize(
  'name',
  [
    name
    if name in ('mgda', 'moco')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in _RULES
  ],
)
def test_an_objective_that_is_always_absent_might_as_well_not_exist(name):
  (weights, directions), state = _run(_MADE[name], lambda _: False)
  (_, without), _ = _run(
    _MADE[name], lambda _: False, lambda index: index[index != _ABSENT]
  )
  np.testing.assert_array_equal(weights[:, _ABSENT], 0)
  if name != 'cr_mogm':  # its mean begins with the first weights
    start = _MADE[name].init(3, jacobians.params_of(np.zeros([3, 7])))
    leaves = map(jax.tree.leaves, (state, start))
    for leaf, first in zip(*leaves, strict=True):
      if leaf.shape[:1] == (3,):
        np.testing.assert_array_equal(leaf[_ABSENT], first[_ABSENT])
  # A mean over all objectives divides by K, absent ones included.
  factor = np.sum(directions * without) / np.sum(without**2)
  assert factor == pytest.approx(1, abs=1e-4) or factor == pytest.approx(
    2 / 3, abs=1e-4
  )
  np.testing.assert_allclose(
    directions, factor * without, rtol=0, atol=2e-5 * np.abs(without).max()
  )


@pytest.mark.slow
@pytest.mark.parametrize('pattern', _PATTERNS)
@pytest.mark.parametrize('name', _RULES)
def test_an_absent_objective_has_no_weight_until_it_is_back(name, pattern):
  def present(step):
    return not _PATTERNS[pattern](step)

  (weights, directions), state = _run(_MADE[name], present)
  absent = np.array([not present(step) for step in range(_STEPS)])
  np.testing.assert_array_equal(weights[absent, _ABSENT], 0)
  assert np.all(np.isfinite(weights))
  assert np.all(np.linalg.norm(directions, axis=1) > 0)
  if name in _SIMPLEX:
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
  # The loss of an absent objective has no influence.
  (others, same), same_state = _run(_MADE[name], present, absent_loss=7.0)
  np.testing.assert_array_equal(directions, same)
  np.testing.assert_array_equal(weights, others)
  checks.assert_equal(state, same_state)
