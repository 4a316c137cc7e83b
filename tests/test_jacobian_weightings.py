"""Weightings that read the Gramian or the Jacobian, by their definitions.

What other libraries return is compared to second, and where they differ from
the definition the test says how.
"""

import functools
import itertools
import json
import pathlib

import jacobians
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import mimo_jax
from mimo_jax import solvers
from mimo_jax import weightings

REFERENCE = json.loads(
  (
    pathlib.Path(__file__).parent / 'reference' / 'jacobian_weightings.json'
  ).read_text()
)
TORCHJD = REFERENCE['torchjd']['sequences']
LIBMTL = REFERENCE['libmtl']['sequences']
RULES = (
  'pcgrad',
  'gradvac',
  'graddrop',
  'krum',
  'trimmed_mean',
  'cr_mogm',
  'modo',
  'sdmgrad',
  'moco',
  'db_mtl',
  'gradnorm',
  'excess_mtl',
)


jitted = functools.cache(jax.jit)


@functools.cache
def make(name, **arguments):
  """A rule, the same one each time, so that it compiles once."""
  return getattr(weightings, name)(**arguments)


def tolerance(x64, wide=1e-10, narrow=1e-4):
  return wide if x64 else narrow


def observe(rows, losses=None, jacobian=False):
  """An observation in the default type, its Gramian in float64 before."""
  rows = np.asarray(rows, float)
  losses = np.ones(len(rows)) if losses is None else losses
  return mimo_jax.Observation(
    losses=jnp.asarray(losses),
    gramian=jnp.asarray(rows @ rows.T),
    # Of no use to rules for Gramians, which would compile for every P.
    jacobian={'w': jnp.asarray(rows)} if jacobian else None,
  )


def init(rule, size, params=3):
  return rule.init(size, {'w': jnp.zeros(params)})


def update(rule, observation, state):
  return jitted(rule.update)(observation, state)


def of_cases(method):
  """Jacobians and what TorchJD's `method` makes of them."""
  cases = REFERENCE['torchjd']['jacobians'].items()
  return [(case['J'], case[method]) for _, case in cases if method in case]


def assert_one_of(candidates, value, atol):
  """The index of the one candidate that `value` is."""
  distances = np.abs(np.asarray(candidates) - value).max(axis=1)
  assert distances.min() <= atol, distances
  return int(distances.argmin())


# PCGrad and GradVac


def orders_of(size):
  """All ways in which each objective may visit the others."""
  others = [
    list(itertools.permutations([j for j in range(size) if j != i]))
    for i in range(size)
  ]
  return list(itertools.product(*others))


def pcgrad_direction(rows, orders):
  """Algorithm 1 of the paper, on the vectors themselves."""
  total = 0
  for row, order in zip(rows, orders, strict=True):
    h = row
    for j in order:
      if h @ rows[j] < 0:
        h = h - (h @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
    total = total + h
  return total


def gradvac_direction(rows, orders, targets, beta):
  """The paper's rule, on the vectors themselves."""
  lengths = np.linalg.norm(rows, axis=1)
  targets, total = targets.copy(), 0
  for i, order in enumerate(orders):
    h = rows[i]
    for j in order:
      target, length = targets[i, j], np.linalg.norm(h)
      cosine = h @ rows[j] / (length * lengths[j])
      if cosine < target:
        sine, target_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
        factor = target * sine - cosine * target_sine
        h = h + length * factor / (lengths[j] * target_sine) * rows[j]
      targets[i, j] = (1 - beta) * target + beta * cosine
    total = total + h
  return total, targets


def test_pcgrad_projects_in_every_order_equally_often(key):
  with jax.enable_x64(True):
    rows = jacobians.conflicting(3, 7) + 0.3 * jacobians.generic(3, 7)
    candidates = [pcgrad_direction(rows, order) for order in orders_of(3)]
    separations = [
      np.abs(one - other).max()
      for one, other in itertools.combinations(candidates, 2)
    ]
    assert min(separations) > 1e-3
    rule = make('pcgrad')

    def weigh(key):
      return update(rule, observe(rows), init(rule, 3)._replace(key=key))[0]

    found = jax.jit(jax.vmap(weigh))(jax.random.split(key, 1600))
    chosen = [
      assert_one_of(candidates, rows.T @ np.asarray(weights), 1e-10)
      for weights in found
    ]
    counts = np.bincount(chosen, minlength=8)
    assert np.all(np.abs(counts - 200) < 5 * np.sqrt(200 * 7 / 8)), counts


def test_pcgrad_orders_anew_in_every_step_and_by_its_seed():
  rows = jacobians.conflicting(5, 9) + 0.3 * jacobians.generic(5, 9)
  rule = make('pcgrad', seed=3)
  first, state = update(rule, observe(rows), init(rule, 5))
  second, _ = update(rule, observe(rows), state)
  same, _ = update(rule, observe(rows), init(rule, 5))
  other = make('pcgrad', seed=4)
  other, _ = update(other, observe(rows), init(other, 5))
  np.testing.assert_array_equal(first, same)
  assert np.abs(first - second).max() > 1e-3
  assert np.abs(first - other).max() > 1e-3


def test_pcgrad_of_two_is_its_closed_form(x64):
  rule = make('pcgrad')
  for sample in ('pair', 'opposed_pair'):
    rows = jacobians.sampled()[sample]
    for rows in (rows, rows * [[1], [-3e-5]]):
      gramian = rows @ rows.T
      against = np.minimum(gramian[0, 1], 0)
      weights, _ = update(rule, observe(rows), init(rule, 2))
      expected = 1 - against / np.diagonal(gramian)
      np.testing.assert_allclose(weights, expected, rtol=tolerance(x64, 1e-12))


def test_pcgrad_is_the_sum_where_nothing_conflicts_and_never_less(x64):
  del x64
  rule = make('pcgrad')
  for rows in jacobians.sampled().values():
    if len(rows) > 5:
      continue
    weights, _ = update(rule, observe(rows), init(rule, len(rows)))
    assert np.min(weights) >= 1
    if np.min(rows @ rows.T) > 0:
      np.testing.assert_array_equal(weights, np.ones(len(rows)))


@pytest.mark.parametrize(('rows', 'expected'), of_cases('PCGrad'))
def test_pcgrad_is_what_torchjd_returns(rows, expected, x64):
  rule = make('pcgrad')
  weights, _ = update(rule, observe(rows), init(rule, 2))
  np.testing.assert_allclose(weights, expected, rtol=tolerance(x64, 1e-12))


def test_pcgrad_works_on_gramians_near_the_smallest_number():
  rows = jacobians.conflicting(3, 7)
  gramian = observe(rows).gramian
  rule = make('pcgrad')
  for scale in (1e-36, 1e36):
    observation = mimo_jax.Observation(jnp.ones(3), gramian * scale)
    weights, _ = update(rule, observation, init(rule, 3))
    expected, _ = update(rule, observe(rows), init(rule, 3))
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert np.max(weights) > 1.01


def test_gradvac_follows_the_paper_in_every_order(key):
  with jax.enable_x64(True):
    rows = jacobians.conflicting(3, 7) + 0.6 * jacobians.generic(3, 7)
    targets = np.array([[0, 0.5, -0.2], [-0.1, 0, 0.4], [0.9, -0.3, 0]])
    candidates = [
      np.concatenate([direction, moved.ravel()])
      for direction, moved in (
        gradvac_direction(rows, order, targets, 0.3) for order in orders_of(3)
      )
    ]
    rule = make('gradvac', beta=0.3)

    def weigh(key):
      state = init(rule, 3)._replace(key=key, targets=jnp.asarray(targets))
      weights, state = update(rule, observe(rows), state)
      return weights, state.targets

    found = jax.jit(jax.vmap(weigh))(jax.random.split(key, 200))
    chosen = {
      assert_one_of(
        candidates,
        np.concatenate([rows.T @ np.asarray(weights), np.ravel(moved)]),
        1e-10,
      )
      for weights, moved in zip(*found, strict=True)
    }
    assert chosen == set(range(8))


def test_gradvac_lifts_the_cosines_of_two_to_their_targets(x64):
  rule = make('gradvac', beta=0.2)
  rows = jacobians.generic(2, 5) * [[1], [0.3]]
  lengths = np.linalg.norm(rows, axis=1)
  cosine = rows[0] @ rows[1] / lengths.prod()
  for one, other in ((0.7, 0.8), (cosine + 0.1, 0.99)):
    targets = jnp.array([[0, one], [other, 0]])
    state = init(rule, 2)._replace(targets=targets)
    weights, state = update(rule, observe(rows), state)
    weights = np.asarray(weights, float)
    # a₂ − 1 is what g₁ took of g₂, and the other way round.
    lifted = rows + (weights - 1)[::-1, None] * rows[::-1]
    cosines = np.sum(lifted * rows[::-1], axis=1) / (
      np.linalg.norm(lifted, axis=1) * lengths[::-1]
    )
    rtol = tolerance(x64, 1e-12)
    np.testing.assert_allclose(cosines, [one, other], rtol=rtol)
    np.testing.assert_allclose(
      [state.targets[0, 1], state.targets[1, 0]],
      0.8 * np.array([one, other]) + 0.2 * cosine,
      rtol=rtol,
    )


def test_gradvac_begins_like_pcgrad():
  for sample in ('stationary', 'zero_row', 'opposed_pair_and_others', 'five'):
    rows = jacobians.sampled()[sample]
    size = len(rows)
    rule, other = make('gradvac', seed=5), make('pcgrad', seed=5)
    weights, state = update(rule, observe(rows), init(rule, size))
    expected, _ = update(other, observe(rows), init(other, size))
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    assert np.all(np.abs(state.targets) <= 0.5 + 1e-6)
    assert not np.any(np.diagonal(state.targets))


def test_gradvac_with_beta_zero_stays_pcgrad():
  rows = jacobians.conflicting(4, 9)
  rule, other = make('gradvac', beta=0.0), make('pcgrad')
  state, other_state = init(rule, 4), init(other, 4)
  for _ in range(3):
    weights, state = update(rule, observe(rows), state)
    expected, other_state = update(other, observe(rows), other_state)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_gradvac_corrects_nothing_for_a_zero_gradient(x64):
  del x64
  rows = jacobians.with_row(jacobians.generic(3, 7), 1, np.zeros(7))
  rule = make('gradvac')
  state = init(rule, 3)._replace(targets=0.9 - 0.9 * jnp.eye(3))
  weights, after = update(rule, observe(rows), state)
  assert weights[1] == 1
  pair = init(rule, 2)._replace(targets=0.9 - 0.9 * jnp.eye(2))
  expected, _ = update(rule, observe(rows[[0, 2]]), pair)
  np.testing.assert_allclose(weights[jnp.array([0, 2])], expected, rtol=1e-5)
  np.testing.assert_allclose(after.targets[1], [0.45, 0, 0.45], rtol=1e-6)


def test_gradvac_stays_finite_when_twins_part():
  rule = make('gradvac')
  twins = np.tile(jacobians.generic(1, 70), [64, 1])
  state = init(rule, 64)
  for _ in range(30):
    _, state = update(rule, observe(twins), state)
  assert np.max(state.targets) <= 1 - 0.9e-6
  assert np.min(state.targets + jnp.eye(64)) > 0.9999
  weights, state = update(rule, observe(jacobians.conflicting(64, 70)), state)
  assert np.all(np.isfinite(weights))
  assert np.all(np.isfinite(state.targets))


@pytest.mark.parametrize(
  ('rows', 'expected'), of_cases('GradVac(first call)')
)
def test_gradvac_begins_as_in_torchjd(rows, expected, x64):
  rule = make('gradvac')
  weights, _ = update(rule, observe(rows), init(rule, 2))
  # Which adds 1e-8 to denominators.
  np.testing.assert_allclose(weights, expected, rtol=tolerance(x64, 1e-7))


def test_gradvac_goes_on_as_in_torchjd(x64):
  sequence = TORCHJD['GradVac(K=2,beta=0.5)']
  rule = make('gradvac', beta=sequence['params']['beta'])
  state = init(rule, 2)
  for step in sequence['steps']:
    observation = mimo_jax.Observation(jnp.ones(2), jnp.array(step['input']))
    weights, state = update(rule, observation, state)
    np.testing.assert_allclose(
      weights, step['weights'], rtol=tolerance(x64, 1e-7)
    )


def test_gradvac_goes_on_as_in_libmtl(x64):
  sequence = LIBMTL['GradVac(K=2,whole model)']
  rule = make('gradvac', beta=sequence['params']['GradVac_beta'])
  state = init(rule, 2)
  for step in sequence['steps']:
    rows = np.array(step['J'])
    weights, state = update(rule, observe(rows), state)
    np.testing.assert_allclose(
      rows.T @ np.asarray(weights, float),
      step['grad'],
      rtol=0,
      atol=tolerance(x64, 1e-7),
    )


@pytest.mark.parametrize('beta', [-0.1, 1.5, np.nan, [0.5, 0.5]])
def test_gradvac_refuses_what_is_not_a_share(beta):
  with pytest.raises(ValueError, match=r'gradvac was given beta=.*\[0, 1\]'):
    weightings.gradvac(beta=beta)
