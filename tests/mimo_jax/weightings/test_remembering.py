"""Rules that remember gradients: MoCo, DB-MTL, ExcessMTL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from tests import jacobians
from tests.mimo_jax.weightings import of_gradients as of


def test_moco_follows_the_paper_step_by_step():
  with jax.enable_x64(True):
    rule = of.make('moco', tracker_step=0.3, step_size=0.02, regularization=0.4)
    state = of.init(rule, 4, 9)
    tracker, weights = np.zeros([4, 9]), np.full(4, 0.25)
    for seed in range(5):
      rows = jacobians.conflicting(4, 9) + 0.5 * jacobians.generic(4, 9, seed)
      tracker = tracker - 0.3 * (tracker - rows)
      gradient = tracker @ tracker.T @ weights + 0.4 * weights
      weights = of.projected(weights - 0.02 * gradient)
      found, state = of.update(rule, of.observe(rows, jacobian=True), state)
      np.testing.assert_allclose(state.tracker['w'], tracker, rtol=1e-12)
      np.testing.assert_allclose(found.weights, weights, rtol=0, atol=1e-6)
      np.testing.assert_allclose(
        found.updates['w'], tracker.T @ weights, rtol=0, atol=1e-5
      )
    assert np.ptp(weights) > 0.1


def db_mtl_direction(history, losses, decay, decay_power):
  """Computes B̂ by its definition as a sum, and d."""
  total, shares = 0, 0
  decays = decay / np.arange(1, len(history) + 1) ** decay_power
  for k, (rows, loss) in enumerate(zip(history, losses, strict=True)):
    share = (1 - decays[k]) * np.prod(decays[k + 1 :])
    total, shares = total + share * rows / loss[:, None], shares + share
  mean = total / shares
  lengths = np.linalg.norm(mean, axis=1)
  return np.sum(lengths.max() / lengths[:, None] * mean, axis=0)


@pytest.mark.parametrize(
  ('decay', 'decay_power'), [(0.0, 0.0), (0.8, 0.0), (0.9, 0.5)]
)
def test_db_mtl_is_the_balanced_sum_of_weighted_means(decay, decay_power, x64):
  rule = of.make('db_mtl', decay=decay, decay_power=decay_power)
  state = of.init(rule, 4, 9)
  history, losses = [], []
  for seed in range(4):
    history.append(jacobians.generic(4, 9, seed))
    losses.append(jacobians.losses_of(history[-1]) / (1 + seed))
    found, state = of.update(
      rule, of.observe(history[-1], losses[-1], jacobian=True), state
    )
    expected = db_mtl_direction(history, losses, decay, decay_power)
    atol = of.tolerance(x64, 1e-12, 1e-5) * np.abs(expected).max()
    np.testing.assert_allclose(found.updates['w'], expected, rtol=0, atol=atol)
  assert int(state.step) == 4


def test_db_mtl_leaves_out_losses_without_logarithm_and_zero_gradients():
  rows = jacobians.generic(4, 7)
  rows[1] = 0
  losses = np.array([0.7, 0.3, 0.0, -2.0])
  rule = of.make('db_mtl')
  found, _ = of.update(
    rule, of.observe(rows, losses, jacobian=True), of.init(rule, 4, 7)
  )
  np.testing.assert_allclose(found.weights, [1 / 0.7, 0, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(found.updates['w'], rows[0] / 0.7, rtol=1e-5)


@pytest.mark.slow
def test_db_mtl_equals_libmtl_after_its_slow_start(x64):
  sequence = of.LIBMTL['DB_MTL(beta=0.9,sigma=0.5)']
  params = sequence['params']
  decay, power = params['DB_beta'], params['DB_beta_sigma']
  rule = of.make('db_mtl', decay=decay, decay_power=power)
  state = of.init(rule, 3, 6)
  remembered = 1.0
  for k, step in enumerate(sequence['steps'], start=1):
    found, state = of.update(
      rule, of.observe(step['J'], step['losses'], jacobian=True), state
    )
    # LibMTL's means start at zero without a correction.
    remembered *= decay / k**power
    np.testing.assert_allclose(
      np.asarray(found.updates['w'], float) * (1 - remembered),
      step['grad'],
      rtol=0,
      atol=of.tolerance(x64, 1e-7),
    )


def excess_weights(history, step_size, num_warmup_steps):
  """Computes weights after some steps by the definition."""
  squares, excesses = 0, []
  for rows in history:
    squares = squares + rows**2
    excesses.append(np.sum(rows**2 / np.sqrt(squares), axis=1))
  baseline = np.mean(excesses[:num_warmup_steps], axis=0)
  total = np.sum(excesses[num_warmup_steps:], axis=0) / baseline
  weights = np.exp(step_size * (total - np.max(total)))
  return weights / weights.sum()


@pytest.mark.parametrize('num_warmup_steps', [1, 3])
def test_excess_mtl_is_the_softmax_of_summed_excesses(num_warmup_steps, x64):
  rule = of.make('excess_mtl', step_size=0.8, num_warmup_steps=num_warmup_steps)
  state = of.init(rule, 4, 9)
  history = []
  for seed in range(5):
    # Gradient lengths fall at unequal rates.
    fallen = np.linspace(1, 0.4, 4)[:, None] ** seed
    history.append(fallen * jacobians.generic(4, 9, seed))
    weights, state = of.update(
      rule, of.observe(history[-1], jacobian=True), state
    )
    if seed < num_warmup_steps:
      np.testing.assert_allclose(weights, [0.25] * 4, rtol=1e-6)
    else:
      expected = excess_weights(history, 0.8, num_warmup_steps)
      np.testing.assert_allclose(
        weights, expected, rtol=of.tolerance(x64, 1e-12)
      )
  assert np.ptp(weights) > 0.1


def test_excess_mtl_measures_an_objective_by_its_first_excess():
  rows = jacobians.generic(3, 7)
  rule = of.make('excess_mtl', step_size=1.0)
  silent = jacobians.with_row(rows, 1, np.zeros(7))
  state = of.init(rule, 3, 7)
  for each, baseline in ((silent, 0), (silent, 0), (rows, 1), (2 * rows, 1)):
    weights, state = of.update(rule, of.observe(each, jacobian=True), state)
    expected = baseline * np.abs(rows[1]).sum()
    np.testing.assert_allclose(state.baseline[1], expected, rtol=1e-5)
    assert np.all(np.isfinite(weights))
  others = np.abs(rows[[0, 2]]).sum(axis=1)
  np.testing.assert_allclose(
    state.baseline[jnp.array([0, 2])], others, rtol=1e-5
  )


@pytest.mark.slow
def test_excess_mtl_stays_finite_over_a_thousand_fast_steps():
  rule = of.make('excess_mtl', step_size=100.0)
  state = of.init(rule, 3, 7)
  rows = jacobians.generic(3, 7)
  observation = of.observe(rows, jacobian=True)
  louder = of.observe(rows * [[1], [1e6], [1]], jacobian=True)
  _, state = of.update(rule, observation, state)
  state = jax.lax.fori_loop(
    0, 1000, lambda _, state: rule.update(louder, state)[1], state
  )
  weights, state = of.update(rule, louder, state)
  np.testing.assert_array_equal(weights, [0, 1, 0])
  assert np.all(np.isfinite(state.logits))


@pytest.mark.parametrize('name', ['moco', 'db_mtl', 'excess_mtl'])
def test_rules_that_remember_gradients_ask_for_params(name):
  rule = of.make(name)
  with pytest.raises(ValueError, match=f'{name} remembers.*params'):
    rule.init(3)
  params = {'small': jnp.zeros([2, 5], jnp.bfloat16), 'number': 1.0}
  state = rule.init(3, params)
  tracker = state.squares if name == 'excess_mtl' else state.tracker
  assert tracker['small'].shape == (3, 2, 5)
  assert tracker['number'].shape == (3,)
  assert {leaf.dtype for leaf in jax.tree.leaves(tracker)} == {
    jnp.dtype('float32')
  }


@pytest.mark.slow
@pytest.mark.parametrize('name', ['moco', 'db_mtl', 'excess_mtl'])
def test_narrow_types_are_remembered_in_float32_and_updated_in_their_own(name):
  params = {'w': jnp.zeros(7, jnp.bfloat16)}
  optimizer = mimo_jax.balance(of.make(name), objectives=('a', 'b', 'c'))
  state = optimizer.init(params)
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
  rows = jnp.asarray(jacobians.generic(3, 7), jnp.bfloat16)
  for _ in range(2):
    updates, state = jax.jit(optimizer.update)(
      {key: {'w': row} for key, row in zip('abc', rows, strict=True)},
      state,
      params,
      losses=dict(zip('abc', jnp.array([0.5, 0.7, 0.2]), strict=True)),
    )
    assert updates['w'].dtype == jnp.bfloat16
    assert np.abs(updates['w'].astype(float)).max() > 0
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
