"""An absent objective has no weight and changes nothing for the others.

Rules that see gradients know it from a gradient of zeros, as that of a modality
that is absent from a batch. Rules for losses know it only from `present`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import weightings
from tests import checks
from tests import jacobians
from tests import properties

ABSENT, STEPS = 2, 12  # the last one, because preferences are by position
PATTERNS = {
  'always': lambda _: True,
  'now and then': lambda step: step % 3 == 1,
  'first': lambda step: step < 5,
}
# These divide by K, absent objectives included.
MEANS = {
  *('aligned_mtl', 'cagrad', 'dualproj', 'geometric_mean', 'mean', 'upgrad')
}


@functools.cache
def make(name, size=3):
  """Returns a rule for that many objectives, with an uneven preference."""
  arguments = {
    'constant': {'weights': 0.7},
    'cosmos': {'preference': jnp.linspace(1, 2, 3)[:size]},
    'dwa': {'steps_per_epoch': 2},
    'stch': {'preference': jnp.ones(size)},
  }
  return getattr(weightings, name)(**arguments.get(name, {}))


FOR_LOSSES = {
  name
  for name in weightings.__all__
  if make(name).needs in ('losses', 'losses_after')
}
QUICK = {*FOR_LOSSES, 'mgda', 'moco'}


def run(name, present, kept=(0, 1, 2), absent_loss=0.0):
  """Returns weights and directions of all steps for the objectives kept."""
  random, kept = np.random.RandomState(5), np.array(kept)
  mean, before = jacobians.generic(3, 7), np.ones(3)
  rule = make(name, len(kept))
  update, _ = properties.compiled(rule)
  state, seen = rule.init(len(kept), jacobians.params_of(mean)), []
  for step in range(STEPS):
    batches = mean + 0.4 * random.normal(size=[3, 3, 7])
    losses = (1.5 + np.arange(3)) * random.uniform(0.5, 1.0, 3) * 0.9**step
    rows = np.float32([4.0, 2.0, 3.0])
    if not present(step):
      batches[:, ABSENT], losses[ABSENT], rows[ABSENT] = 0, absent_loss, 0
    first, second, third = batches[:, kept]
    observation = jacobians.observe(first, losses[kept])._replace(
      cross_gramian=np.float32(second @ third.T),
      losses_after=np.float32(0.9 * before[kept]),
    )
    observation = jacobians.seen_by(rule, observation)
    if name in FOR_LOSSES:
      observation = observation._replace(rows=rows[kept])
    weights, state = update(observation, state)
    seen.append(properties.weighed(first, weights))
    before = losses
  return [np.stack(each) for each in zip(*seen, strict=True)], state


@pytest.mark.parametrize(
  'name',
  [
    name if name in QUICK else checks.slow(name)
    for name in weightings.__all__
    if name != 'random'  # whose draws depend on the number of objectives
  ],
)
def test_an_objective_that_is_always_absent_might_as_well_not_exist(name):
  (weights, directions), state = run(name, lambda _: False)
  (_, without), _ = run(name, lambda _: True, kept=(0, 1))
  np.testing.assert_array_equal(weights[:, ABSENT], 0)
  if name != 'cr_mogm':  # its mean begins with the first weights
    start = make(name).init(3, jacobians.params_of(np.zeros([3, 7])))
    leaves = map(jax.tree.leaves, (state, start))
    for leaf, first in zip(*leaves, strict=True):
      if leaf.shape[:1] == (3,) and leaf.dtype != bool:
        np.testing.assert_array_equal(leaf[ABSENT], first[ABSENT])
  factor = np.sum(directions * without) / np.sum(without**2)
  assert factor == pytest.approx(2 / 3 if name in MEANS else 1, abs=1e-4)
  np.testing.assert_allclose(
    directions, factor * without, rtol=0, atol=2e-5 * np.abs(without).max()
  )


@pytest.mark.slow
@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('name', weightings.__all__)
def test_an_absent_objective_has_no_weight_until_it_is_back(name, pattern):
  absent = np.array([PATTERNS[pattern](step) for step in range(STEPS)])

  def present(step):
    return not absent[step]

  (weights, directions), state = run(name, present)
  np.testing.assert_array_equal(weights[absent, ABSENT], 0)
  assert np.all(np.isfinite(weights))
  assert np.all(np.linalg.norm(directions, axis=1) > 0)
  if name in FOR_LOSSES and name != 'fused_only':
    assert np.all(weights[~absent, ABSENT])
  if 'simplex' in properties.claims(name) and name != 'mean':
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
  # The loss of an absent objective has no influence.
  (others, same), same_state = run(name, present, absent_loss=7.0)
  np.testing.assert_array_equal(directions, same)
  np.testing.assert_array_equal(weights, others)
  if name != 'famo':  # which remembers all losses of the last step
    checks.assert_equal(state, same_state)
