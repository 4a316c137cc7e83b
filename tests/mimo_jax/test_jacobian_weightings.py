"""Weightings that read the Gramian or the Jacobian, by their definitions.

What other libraries return is compared to second, and where they differ from
the definition the test says how.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import mimo_jax
from mimo_jax import solvers
from mimo_jax import weightings
from tests import jacobians
from tests import reference

REFERENCE = reference.read('jacobian_weightings')
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

    found = jax.jit(jax.vmap(weigh))(
      jax.random.key_data(jax.random.split(key, 1600))
    )
    chosen = [
      assert_one_of(candidates, rows.T @ np.asarray(weights), 1e-10)
      for weights in found
    ]
    counts = np.bincount(chosen, minlength=8)
    assert np.all(np.abs(counts - 200) < 5 * np.sqrt(200 * 7 / 8)), counts


@pytest.mark.slow
def test_pcgrad_never_projects_a_gradient_on_itself(key):
  """Not even one that the others turned against itself."""
  rows = np.array([[0.0, -3, -3], [1, 2, 1], [-1, 1, 2]])
  turned = rows[0]
  for j in (1, 2):
    turned = turned - turned @ rows[j] / (rows[j] @ rows[j]) * rows[j]
  assert turned @ rows[0] < -1
  candidates = [pcgrad_direction(rows, order) for order in orders_of(3)]
  rule = make('pcgrad')

  def weigh(key):
    return update(rule, observe(rows), init(rule, 3)._replace(key=key))[0]

  for weights in jax.jit(jax.vmap(weigh))(
    jax.random.key_data(jax.random.split(key, 100))
  ):
    assert_one_of(candidates, rows.T @ np.asarray(weights, float), 1e-4)


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


@pytest.mark.slow
def test_pcgrad_is_the_sum_where_nothing_conflicts_and_never_less():
  rule = make('pcgrad')
  for rows in jacobians.sampled().values():
    if len(rows) > 5:
      continue
    weights, _ = update(rule, observe(rows), init(rule, len(rows)))
    present = np.any(rows, axis=1)
    assert np.min(weights[present | ~present.any()]) >= 1
    if np.min(rows @ rows.T) > 0:
      np.testing.assert_array_equal(weights, np.ones(len(rows)))


def test_pcgrad_is_what_torchjd_returns(x64):
  rule = make('pcgrad')
  for rows, expected in of_cases('PCGrad'):
    weights, _ = update(rule, observe(rows), init(rule, 2))
    # Which gives a zero gradient a weight.
    expected = np.where(np.any(rows, axis=1), expected, 0)
    np.testing.assert_allclose(weights, expected, rtol=tolerance(x64, 1e-12))


@pytest.mark.slow
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

    found = jax.jit(jax.vmap(weigh))(
      jax.random.key_data(jax.random.split(key, 200))
    )
    chosen = {
      assert_one_of(
        candidates,
        np.concatenate([rows.T @ np.asarray(weights), np.ravel(moved)]),
        1e-10,
      )
      for weights, moved in zip(*found, strict=True)
    }
    assert chosen == set(range(8))


@pytest.mark.slow
def test_gradvac_corrects_nothing_for_a_zero_gradient():
  rows = jacobians.with_row(jacobians.generic(3, 7), 1, np.zeros(7))
  rule = make('gradvac')
  state = init(rule, 3)._replace(targets=0.9 - 0.9 * jnp.eye(3))
  weights, after = update(rule, observe(rows), state)
  assert weights[1] == 0
  pair = init(rule, 2)._replace(targets=0.9 - 0.9 * jnp.eye(2))
  expected, _ = update(rule, observe(rows[[0, 2]]), pair)
  np.testing.assert_allclose(weights[jnp.array([0, 2])], expected, rtol=1e-5)
  np.testing.assert_allclose(after.targets[1], [0.9, 0, 0.9], rtol=1e-6)


@pytest.mark.slow
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


@pytest.mark.slow
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


# GradDrop


def drops(rule, rows, keys):
  """The weights [N, K, P] of N draws."""
  rows = jnp.asarray(rows)
  observation = observe(rows, jacobian=True)

  def weigh(key):
    state = init(rule, len(rows))._replace(key=key)
    return rule.update(observation, state)[0]['w']

  return np.asarray(jax.jit(jax.vmap(weigh))(keys), float)


def test_graddrop_keeps_one_sign_of_every_coordinate(key):
  rows = jacobians.generic(5, 11)
  rows[:, 3] = np.abs(rows[:, 3])
  rows[:, 7] = -np.abs(rows[:, 7])
  rows[:, 9] = 0
  rows[2, 4] = 0
  weights = drops(
    make('graddrop'), rows, jax.random.key_data(jax.random.split(key, 300))
  )
  kept_positive = np.all(weights == (rows > 0), axis=1)
  kept_negative = np.all(weights == (rows < 0), axis=1)
  assert np.all(kept_positive | kept_negative)
  assert np.all(kept_positive[:, 3])
  assert np.all(kept_negative[:, 7])
  assert not np.any(weights[:, :, 9])
  mixed = [0, 1, 2, 4, 5, 6, 8, 10]
  assert np.all(np.any(kept_positive[:, mixed], axis=0))
  assert np.all(np.any(kept_negative[:, mixed], axis=0))


@pytest.mark.slow
def test_graddrop_is_the_sum_on_average(key):
  rows = jacobians.generic(4, 7)
  number = 4000
  weights = drops(
    make('graddrop'), rows, jax.random.key_data(jax.random.split(key, number))
  )
  directions = np.sum(weights * rows, axis=1)
  expected = rows.sum(axis=0)
  error = 5 * directions.std(axis=0) / np.sqrt(number)
  assert np.all(np.abs(directions.mean(axis=0) - expected) <= error + 1e-5)
  # Coordinates draw on their own: their choices are not correlated.
  choices = np.sum(weights * (rows > 0), axis=1) > 0
  choices = choices[:, (choices.std(axis=0) > 0)].astype(float)
  assert choices.shape[1] >= 4
  correlations = np.corrcoef(choices.T) - np.eye(choices.shape[1])
  assert np.abs(correlations).max() < 5 / np.sqrt(number)


def test_graddrop_draws_leaf_by_leaf_and_step_by_step():
  rows = jacobians.generic(3, 40)
  rule = make('graddrop')
  leaf = jnp.asarray(rows)
  observation = observe(rows)._replace(jacobian={'a': leaf, 'b': leaf})
  first, state = update(rule, observation, init(rule, 3))
  second, _ = update(rule, observation, state)
  assert np.any(first['a'] != first['b'])
  assert np.any(first['a'] != second['a'])
  other = make('graddrop', seed=1)
  other, _ = update(other, observation, init(other, 3))
  assert np.any(first['a'] != other['a'])


def test_graddrop_leaks_a_share_of_what_it_drops():
  rows = jacobians.generic(3, 9)
  observation = observe(rows, jacobian=True)
  rule = make('graddrop')
  plain, _ = update(rule, observation, init(rule, 3))
  rule = weightings.graddrop(leak=[0.25, 0.0, 1.0])
  weights, _ = update(rule, observation, init(rule, 3))
  leaks = np.array([0.25, 0, 1])[:, None]
  expected = leaks + (1 - leaks) * np.asarray(plain['w'])
  np.testing.assert_allclose(weights['w'], expected, rtol=1e-6)
  assert np.any(weights['w'] == 0.25)
  rule = weightings.graddrop(leak=1.0)
  weights, _ = update(rule, observation, init(rule, 3))
  np.testing.assert_array_equal(weights['w'], np.ones([3, 9]))


@pytest.mark.slow
def test_graddrop_draws_in_float32_for_small_types(key):
  rows = jnp.asarray([[255.0], [-1.0]], jnp.bfloat16)
  observation = observe(np.ones([2, 1]))._replace(jacobian=rows)
  rule = make('graddrop')

  def weigh(key):
    return rule.update(observation, init(rule, 2)._replace(key=key))[0][1, 0]

  dropped = jax.jit(jax.vmap(weigh))(
    jax.random.key_data(jax.random.split(key, 20000))
  )
  # Purity 255/256; bfloat16 draws are multiples of 1/128 and never pass it.
  share = float(np.mean(np.asarray(dropped, float)))
  assert abs(share - 1 / 256) < 5 * np.sqrt(1 / 256 / 20000)


# Krum


def krum_weights(rows, num_byzantine, num_selected):
  """The paper's rule, on the vectors themselves."""
  size = len(rows)
  scores = []
  for row in rows:
    distances = np.sort(np.sum((rows - row) ** 2, axis=1))
    # The smallest is a row's own, which is zero.
    scores.append(distances[1 : max(size - num_byzantine - 2, 1) + 1].sum())
  selected = np.argsort(scores, kind='stable')[:num_selected]
  return np.isin(np.arange(size), selected) / num_selected


def test_krum_selects_by_squared_distances():
  for f, m in ((0, 1), (1, 2), (2, 1), (4, 3)):
    rule = make('krum', num_byzantine=f, num_selected=m)
    for seed in range(5):
      # A common part, as gradients of one batch have, and of other lengths.
      rows = 2.0 + jacobians.generic(8, 11, seed)
      weights, _ = update(rule, observe(rows), init(rule, 8))
      np.testing.assert_allclose(weights, krum_weights(rows, f, m), rtol=1e-6)


def test_krum_squares_where_plain_distances_would_select_another():
  rows = np.array([[4, -3], [-2, -2], [-3, -2], [-1, -4], [-3, 4]])
  distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
  for power, selected in ((1, 1), (2, 3)):
    scores = np.sort(distances**power, axis=1)[:, :4].sum(axis=1)
    assert np.argmin(scores) == selected
  rule = make('krum')
  weights, _ = update(rule, observe(rows), init(rule, 5))
  np.testing.assert_array_equal(weights, [0, 0, 0, 1, 0])


def test_krum_takes_the_first_of_equals():
  rule = make('krum', num_selected=2)
  row = jacobians.generic(1, 5)[0]
  for rows, expected in (
    (np.tile(row, [4, 1]), [0.5, 0.5, 0, 0]),
    (np.stack([9 * row, row, row, row, -9 * row]), [0, 0.5, 0.5, 0, 0]),
  ):
    weights, _ = update(rule, observe(rows), init(rule, len(rows)))
    np.testing.assert_array_equal(weights, expected)


def test_krum_of_two_is_the_first_and_of_one_the_one():
  rule = make('krum')
  pair, _ = update(rule, observe(jacobians.generic(2, 5)), init(rule, 2))
  np.testing.assert_array_equal(pair, [1, 0])
  one, _ = update(rule, observe(jacobians.generic(1, 5)), init(rule, 1))
  np.testing.assert_array_equal(one, [1])


@pytest.mark.slow
def test_krum_works_on_gramians_near_the_largest_number():
  rows = 2.0 + jacobians.generic(8, 11)
  observation = observe(rows)
  observation = observation._replace(gramian=observation.gramian * 1e35)
  rule = make('krum')
  weights, _ = update(rule, observation, init(rule, 8))
  np.testing.assert_array_equal(weights, krum_weights(rows, 0, 1))


@pytest.mark.slow
def test_krum_is_what_torchjd_returns():
  for f, m in ((0, 1), (1, 1), (1, 2)):
    rule = make('krum', num_byzantine=f, num_selected=m)
    for rows, expected in of_cases(f'Krum(f={f},m={m})'):
      rows = np.array(rows)
      if not np.any(rows, axis=1).all():
        continue  # which lets zero gradients take part
      weights, _ = update(rule, observe(rows), init(rule, len(rows)))
      # Which sums distances that are not squared, and so may select others.
      np.testing.assert_array_equal(weights, krum_weights(rows, f, m))
      np.testing.assert_array_equal(weights, expected)


# Trimmed mean


@pytest.mark.parametrize('num_trimmed', [0, 1, 2, 3])
def test_trimmed_mean_leaves_out_the_extremes_of_every_coordinate(
  num_trimmed, x64
):
  rows = np.round(jacobians.generic(7, 40), 0)  # with ties
  rows[:, 5] = rows[2, 5]
  rows[[1, 4]] = rows[3]
  rule = make('trimmed_mean', num_trimmed=num_trimmed)
  weights, _ = update(rule, observe(rows, jacobian=True), init(rule, 7))
  each = np.asarray(weights['w'], float)
  kept = 7 - 2 * num_trimmed
  np.testing.assert_array_equal(np.count_nonzero(each, axis=0), [kept] * 40)
  middle = np.sort(rows, axis=0)[num_trimmed : 7 - num_trimmed]
  rtol = tolerance(x64, 1e-12, 1e-5)
  np.testing.assert_allclose(
    np.sum(each * rows, axis=0), middle.mean(axis=0), rtol=rtol, atol=rtol
  )
  if num_trimmed == 3:
    median = np.sum(each * rows, axis=0)
    np.testing.assert_array_equal(median, np.median(rows, axis=0))
  # Equals keep the order of the objectives.
  np.testing.assert_array_equal(
    np.flatnonzero(each[:, 5]), np.arange(num_trimmed, 7 - num_trimmed)
  )


def test_trimmed_mean_leaves_out_one_unless_told_or_too_few():
  for size, expected in ((1, 1), (2, 2), (3, 1), (4, 2), (9, 7)):
    rows = jacobians.generic(size, 6)
    rule = make('trimmed_mean')
    weights, _ = update(rule, observe(rows, jacobian=True), init(rule, size))
    kept = np.count_nonzero(weights['w'], axis=0)
    np.testing.assert_array_equal(kept, [expected] * 6)


@pytest.mark.slow
@pytest.mark.parametrize('num_trimmed', [1, 2])
def test_trimmed_mean_is_what_torchjd_returns(num_trimmed, x64):
  cases = of_cases(f'TrimmedMean({num_trimmed})')
  assert len(cases) > 2
  rule = make('trimmed_mean', num_trimmed=num_trimmed)
  for rows, expected in cases:
    if not np.any(rows, axis=1).all():
      continue  # which lets zero gradients take part
    weights, _ = update(rule, observe(rows, jacobian=True), init(rule, 3))
    vector = np.sum(np.asarray(weights['w'], float) * rows, axis=0)
    rtol = tolerance(x64, 1e-12)
    np.testing.assert_allclose(vector, expected, rtol=rtol, atol=rtol)


# CR-MOGM


def test_cr_mogm_is_the_running_mean_of_what_it_wraps(x64):
  observations = [
    observe(jacobians.generic(3, 7, seed), losses=jacobians.losses_of([0] * 3))
    for seed in range(4)
  ]
  inner = make('mgda')
  for rule in (
    make('cr_mogm', decay=0.7),
    make('cr_mogm', weighting=inner, decay=0.7),
  ):
    state, mean = init(rule, 3), None
    for observation in observations:
      weights, state = update(rule, observation, state)
      expected = np.asarray(
        update(inner, observation, init(inner, 3))[0], float
      )
      mean = expected if mean is None else 0.7 * mean + 0.3 * expected
      np.testing.assert_allclose(weights, mean, rtol=tolerance(x64, 1e-12))
      np.testing.assert_array_equal(state.mean, weights)
    assert np.abs(mean - expected).max() > 0.01


@pytest.mark.slow
def test_cr_mogm_takes_a_schedule():
  rule = weightings.cr_mogm(decay=optax.linear_schedule(0.0, 1.0, 4))
  inner = make('mgda')
  state, mean = init(rule, 3), 0
  for step in range(6):
    observation = observe(jacobians.generic(3, 7, seed=step))
    weights, state = update(rule, observation, state)
    new = np.asarray(update(inner, observation, init(inner, 3))[0], float)
    mean = min(step / 4, 1) * mean + (1 - min(step / 4, 1)) * new
    np.testing.assert_allclose(weights, mean, rtol=1e-5)


def test_cr_mogm_carries_the_state_and_the_needs_of_what_it_wraps():
  rule = weightings.cr_mogm(make('modo'))
  assert rule.needs == 'cross_gramian'
  assert rule.extra_args == ('independent_updates',)
  observation = mimo_jax.Observation(
    jnp.ones(3), cross_gramian=jnp.asarray(TORCHJD['MoDo']['steps'][0]['input'])
  )
  state = init(rule, 3)
  for _ in range(2):
    _, state = update(rule, observation, state)
  inner = make('modo')
  inner_state = init(inner, 3)
  for _ in range(2):
    _, inner_state = update(inner, observation, inner_state)
  np.testing.assert_allclose(
    state.weighting.shares, inner_state.shares, rtol=1e-6
  )


# MoDo and SDMGrad


def projected(point):
  """The nearest point of the simplex, from scipy's quadratic programme."""
  size = len(point)
  result = scipy.optimize.minimize(
    lambda x: np.sum((x - point) ** 2) / 2,
    np.full(size, 1 / size),
    jac=lambda x: x - point,
    bounds=[(0, None)] * size,
    constraints={'type': 'eq', 'fun': lambda x: x.sum() - 1},
    method='SLSQP',
    options={'ftol': 1e-15, 'maxiter': 200},
  )
  return result.x


def cross_gramian(size, seed=0):
  """Of two batches whose gradients are alike: not symmetric."""
  rows = jacobians.generic(size, size + 4, seed)
  noise = jacobians.generic(size, size + 4, seed + 10)
  return (rows + 0.3 * noise) @ (rows - 0.2 * noise).T


def cross(matrix):
  matrix = jnp.asarray(matrix)
  return mimo_jax.Observation(jnp.ones(len(matrix)), cross_gramian=matrix)


def gramian(matrix):
  matrix = jnp.asarray(matrix)
  return mimo_jax.Observation(jnp.ones(len(matrix)), gramian=matrix)


@pytest.mark.parametrize('size', [1, 2, 5, 64])
def test_simplex_projection_meets_the_optimality_conditions(size, x64):
  random = np.random.RandomState(size)
  project = jitted(solvers.simplex_projection)
  eps = np.finfo(np.float64 if x64 else np.float32).eps
  for scale, shift in ((0.1, 0), (1, 3), (30, -7), (1e10, 0), (0, 5)):
    point = np.asarray(
      jnp.asarray(scale * random.normal(size=size) + shift), float
    )
    found = np.asarray(project(jnp.asarray(point)), float)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(), 1, rtol=4 * size * eps)
    # x − y is the same where x > 0, and no less elsewhere.
    slack = found - point
    threshold = slack[found > 0]
    rounding = 4 * size * eps * (1 + np.abs(point).max())
    assert np.ptp(threshold) <= rounding
    assert np.all(slack >= threshold.max() - rounding)
    again = project(jnp.asarray(found))
    np.testing.assert_allclose(again, found, rtol=0, atol=4 * size * eps)


@pytest.mark.slow
def test_simplex_projection_is_what_scipy_finds():
  project = jitted(solvers.simplex_projection)
  with jax.enable_x64(True):
    for seed in range(5):
      point = np.random.RandomState(seed).normal(size=5)
      np.testing.assert_allclose(
        project(jnp.asarray(point)), projected(point), rtol=0, atol=1e-7
      )


def test_modo_takes_one_projected_step_from_where_it_was():
  with jax.enable_x64(True):
    rule = make('modo', step_size=0.02, regularization=0.3)
    state, weights = init(rule, 4), np.full(4, 0.25)
    for seed in range(5):
      matrix = cross_gramian(4, seed)
      assert np.abs(matrix - matrix.T).max() > 0.5
      gradient = matrix @ weights + 0.3 * weights
      weights = projected(weights - 0.02 * gradient)
      found, state = update(rule, cross(matrix), state)
      np.testing.assert_allclose(found, weights, rtol=0, atol=1e-6)
    assert np.ptp(weights) > 0.1


@pytest.mark.slow
def test_modo_is_what_libmtl_returns(x64):
  sequence = LIBMTL['MoDo(defaults)']
  rule = make(
    'modo',
    step_size=sequence['params']['MoDo_gamma'],
    regularization=sequence['params']['MoDo_rho'],
  )
  state = init(rule, 3)
  for step in sequence['steps']:
    first, second, _ = np.asarray(step['J'])
    weights, state = update(rule, cross(first @ second.T), state)
    np.testing.assert_allclose(weights, step['lambd'], rtol=tolerance(x64))


def sdmgrad_w(matrix, start, step_size, momentum, num_steps, pull, preferred):
  """The authors' loop."""
  scale = np.mean(np.sqrt(np.maximum(np.diagonal(matrix), 0)))
  scaled, w, velocity = matrix / scale**2, start, 0
  for _ in range(num_steps):
    velocity = momentum * velocity + scaled @ (w + pull * preferred)
    w = projected(w - step_size * velocity)
  return w


def test_sdmgrad_descends_with_momentum_from_where_it_was():
  with jax.enable_x64(True):
    preferred = np.array([0.5, 0.1, 0.15, 0.25])
    rule = weightings.sdmgrad(
      step_size=0.2,
      momentum=0.6,
      num_steps=3,
      regularization=0.7,
      preference=preferred,
    )
    state, w = init(rule, 4), np.full(4, 0.25)
    for seed in range(3):
      matrix = cross_gramian(4, seed)
      w = sdmgrad_w(matrix, w, 0.2, 0.6, 3, 0.7, preferred)
      weights, state = update(rule, cross(matrix), state)
      np.testing.assert_allclose(state.shares, w, rtol=0, atol=1e-5)
      expected = (w + 0.7 * preferred) / 1.7
      np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5)
    assert np.ptp(w) > 0.1


@pytest.mark.slow
def test_sdmgrad_does_not_depend_on_the_scale_of_the_gradients():
  rule = make('sdmgrad')
  matrix = cross_gramian(4)
  expected, _ = update(rule, cross(matrix), init(rule, 4))
  for scale in (1e-36, 1e-20, 1e20, 1e34):
    weights, _ = update(rule, cross(scale * matrix), init(rule, 4))
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize('diagonal', [0.0, -1.0, 1e-30])
def test_sdmgrad_stays_where_batches_agree_on_nothing(diagonal):
  matrix = cross_gramian(3)
  matrix[np.arange(3), np.arange(3)] = diagonal
  rule = make('sdmgrad')
  w = jnp.array([0.2, 0.7, 0.1])
  weights, state = update(rule, cross(matrix), init(rule, 3)._replace(shares=w))
  np.testing.assert_allclose(state.shares, w, rtol=1e-5)
  np.testing.assert_allclose(weights, (w + 0.1) / 1.3, rtol=1e-5)


@pytest.mark.slow
def test_sdmgrad_is_what_libmtl_returns(x64):
  sequence = LIBMTL['SDMGrad(defaults)']
  rule = make(
    'sdmgrad',
    step_size=5.0,
    num_steps=sequence['params']['SDMGrad_niter'],
    regularization=sequence['params']['SDMGrad_lamda'],
  )
  state = init(rule, 3)
  for step in sequence['steps']:
    _, first, second = np.asarray(step['J'])
    _, state = update(rule, cross(first @ second.T), state)
    rtol = tolerance(x64, 1e-7)
    np.testing.assert_allclose(state.shares, step['w'], rtol=rtol, atol=rtol)


# Rules that remember gradients: MoCo, DB-MTL, ExcessMTL


def test_moco_follows_the_paper_step_by_step():
  with jax.enable_x64(True):
    rule = make('moco', tracker_step=0.3, step_size=0.02, regularization=0.4)
    state = init(rule, 4, 9)
    tracker, weights = np.zeros([4, 9]), np.full(4, 0.25)
    for seed in range(5):
      rows = jacobians.conflicting(4, 9) + 0.5 * jacobians.generic(4, 9, seed)
      tracker = tracker - 0.3 * (tracker - rows)
      gradient = tracker @ tracker.T @ weights + 0.4 * weights
      weights = projected(weights - 0.02 * gradient)
      found, state = update(rule, observe(rows, jacobian=True), state)
      np.testing.assert_allclose(state.tracker['w'], tracker, rtol=1e-12)
      np.testing.assert_allclose(found.weights, weights, rtol=0, atol=1e-6)
      np.testing.assert_allclose(
        found.updates['w'], tracker.T @ weights, rtol=0, atol=1e-5
      )
    assert np.ptp(weights) > 0.1


def db_mtl_direction(history, losses, decay, decay_power):
  """B̂ summed from its definition, and d."""
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
  rule = make('db_mtl', decay=decay, decay_power=decay_power)
  state = init(rule, 4, 9)
  history, losses = [], []
  for seed in range(4):
    history.append(jacobians.generic(4, 9, seed))
    losses.append(jacobians.losses_of(history[-1]) / (1 + seed))
    found, state = update(
      rule, observe(history[-1], losses[-1], jacobian=True), state
    )
    expected = db_mtl_direction(history, losses, decay, decay_power)
    atol = tolerance(x64, 1e-12, 1e-5) * np.abs(expected).max()
    np.testing.assert_allclose(found.updates['w'], expected, rtol=0, atol=atol)
  assert int(state.step) == 4


def test_db_mtl_leaves_out_what_has_no_logarithm_or_no_length():
  rows = jacobians.generic(4, 7)
  rows[1] = 0
  losses = np.array([0.7, 0.3, 0.0, -2.0])
  rule = make('db_mtl')
  found, _ = update(
    rule, observe(rows, losses, jacobian=True), init(rule, 4, 7)
  )
  np.testing.assert_allclose(found.weights, [1 / 0.7, 0, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(found.updates['w'], rows[0] / 0.7, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['DB_MTL(defaults)', 'DB_MTL(beta=0.9,sigma=0.5)']
)
def test_db_mtl_is_libmtl_without_its_slow_start(name, x64):
  params = LIBMTL[name]['params']
  decay, power = params['DB_beta'], params['DB_beta_sigma']
  rule = make('db_mtl', decay=decay, decay_power=power)
  state = init(rule, 3, 6)
  remembered = 1.0
  for k, step in enumerate(LIBMTL[name]['steps'], start=1):
    found, state = update(
      rule, observe(step['J'], step['losses'], jacobian=True), state
    )
    # Its means start at zero, and are not corrected for it.
    remembered *= decay / k**power
    np.testing.assert_allclose(
      np.asarray(found.updates['w'], float) * (1 - remembered),
      step['grad'],
      rtol=0,
      atol=tolerance(x64, 1e-7),
    )


def excess_weights(history, step_size, num_warmup_steps):
  """The weights after some steps, from the definition."""
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
  rule = make('excess_mtl', step_size=0.8, num_warmup_steps=num_warmup_steps)
  state = init(rule, 4, 9)
  history = []
  for seed in range(5):
    # Lengths that fall at unequal rates.
    fallen = np.linspace(1, 0.4, 4)[:, None] ** seed
    history.append(fallen * jacobians.generic(4, 9, seed))
    weights, state = update(rule, observe(history[-1], jacobian=True), state)
    if seed < num_warmup_steps:
      np.testing.assert_allclose(weights, [0.25] * 4, rtol=1e-6)
    else:
      expected = excess_weights(history, 0.8, num_warmup_steps)
      np.testing.assert_allclose(weights, expected, rtol=tolerance(x64, 1e-12))
  assert np.ptp(weights) > 0.1


def test_excess_mtl_measures_an_objective_by_its_first_excess():
  rows = jacobians.generic(3, 7)
  rule = make('excess_mtl', step_size=1.0)
  silent = jacobians.with_row(rows, 1, np.zeros(7))
  state = init(rule, 3, 7)
  for each, baseline in ((silent, 0), (silent, 0), (rows, 1), (2 * rows, 1)):
    weights, state = update(rule, observe(each, jacobian=True), state)
    expected = baseline * np.abs(rows[1]).sum()
    np.testing.assert_allclose(state.baseline[1], expected, rtol=1e-5)
    assert np.all(np.isfinite(weights))
  others = np.abs(rows[[0, 2]]).sum(axis=1)
  np.testing.assert_allclose(
    state.baseline[jnp.array([0, 2])], others, rtol=1e-5
  )


@pytest.mark.slow
def test_excess_mtl_survives_a_thousand_steps_of_the_fastest_kind():
  rule = make('excess_mtl', step_size=100.0)
  state = init(rule, 3, 7)
  rows = jacobians.generic(3, 7)
  observation = observe(rows, jacobian=True)
  louder = observe(rows * [[1], [1e6], [1]], jacobian=True)
  _, state = update(rule, observation, state)
  state = jax.lax.fori_loop(
    0, 1000, lambda _, state: rule.update(louder, state)[1], state
  )
  weights, state = update(rule, louder, state)
  np.testing.assert_array_equal(weights, [0, 1, 0])
  assert np.all(np.isfinite(state.logits))


@pytest.mark.slow
def test_excess_mtl_is_libmtl_but_for_the_sum_of_the_weights(x64):
  sequence = LIBMTL['ExcessMTL(step=0.01)']
  rule = make('excess_mtl', step_size=sequence['params']['robust_step_size'])
  state = init(rule, 3, 6)
  for step in sequence['steps']:
    observation = observe(step['J'], jacobian=True)
    weights, state = update(rule, observation, state)
    np.testing.assert_allclose(
      3 * np.asarray(weights),
      step['reported_weight'],
      rtol=tolerance(x64, 1e-6),
    )


@pytest.mark.parametrize('name', ['moco', 'db_mtl', 'excess_mtl'])
def test_rules_that_remember_gradients_ask_for_params(name):
  rule = make(name)
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
def test_small_types_are_remembered_in_float32_and_updated_in_their_own(name):
  params = {'w': jnp.zeros(7, jnp.bfloat16)}
  optimizer = mimo_jax.balance(make(name), objectives=('a', 'b', 'c'))
  state = optimizer.init(params)
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
  rows = jnp.asarray(jacobians.generic(3, 7), jnp.bfloat16)
  for _ in range(2):
    updates, state = optimizer.update(
      {key: {'w': row} for key, row in zip('abc', rows, strict=True)},
      state,
      params,
      losses=dict(zip('abc', jnp.array([0.5, 0.7, 0.2]), strict=True)),
    )
    assert updates['w'].dtype == jnp.bfloat16
    assert np.abs(updates['w'].astype(float)).max() > 0
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes


# GradNorm


def gradnorm_gradient(logits, lengths, losses, initial, alpha):
  """dΣ|wᵢnᵢ − Ḡ rᵢ^α|/ds by central differences, and Ḡ."""
  size = len(logits)

  def weights(logits):
    return size * np.exp(logits) / np.exp(logits).sum()

  rates = losses / initial
  average = np.mean(weights(logits) * lengths)
  target = average * (rates / rates.mean()) ** alpha

  def objective(logits):
    return np.sum(np.abs(weights(logits) * lengths - target))

  step = 1e-6 * np.eye(size)
  gradient = [
    (objective(logits + each) - objective(logits - each)) / 2e-6
    for each in step
  ]
  return np.array(gradient), average


def test_gradnorm_descends_on_the_distance_to_its_targets():
  with jax.enable_x64(True):
    rule = make('gradnorm', alpha=0.7, optimizer=optax.sgd(0.05))
    state, logits, initial = init(rule, 4), np.zeros(4), None
    for seed in range(4):
      rows = jacobians.generic(4, 9, seed)
      losses = jacobians.losses_of(rows) * np.linspace(1, 0.5, 4) ** seed
      initial = losses if initial is None else initial
      weights, state = update(rule, observe(rows, losses), state)
      expected = 4 * np.exp(logits) / np.exp(logits).sum()
      np.testing.assert_allclose(weights, expected, rtol=1e-7)
      gradient, average = gradnorm_gradient(
        logits, np.linalg.norm(rows, axis=1), losses, initial, 0.7
      )
      logits = logits - 0.05 * gradient / average
      np.testing.assert_allclose(state.logits, logits, rtol=0, atol=1e-8)
    assert np.ptp(weights) > 0.05


@pytest.mark.slow
def test_gradnorm_learns_alike_on_any_scale():
  losses = jacobians.losses_of([0] * 4)

  def after(gradients, values):
    rule = make('gradnorm')
    state = init(rule, 4)
    for seed in range(5):
      rows = gradients * jacobians.generic(4, 9, seed)
      fallen = values * losses * np.linspace(1, 0.5, 4) ** seed
      weights, state = update(rule, observe(rows, fallen), state)
    return weights

  expected = after(1, 1)
  assert np.ptp(expected) > 0.05
  for gradients, values in ((1e-12, 1), (1e12, 1e-12), (1, 1e12)):
    np.testing.assert_allclose(after(gradients, values), expected, rtol=1e-4)


@pytest.mark.parametrize('losses', [[0, 0.5, 0.2], [0, 0, 0], [0.4, -0.1, 0.2]])
def test_gradnorm_takes_losses_without_a_rate(losses):
  rows = jacobians.with_row(jacobians.generic(3, 7), 2, np.zeros(7))
  rule = make('gradnorm')
  state = init(rule, 3)
  for values in (losses, [0.3, 0.4, 0.1], [0.0, 0.0, 0.0]):
    weights, state = update(rule, observe(rows, np.array(values)), state)
    assert np.all(np.isfinite(weights))
    assert np.all(np.isfinite(state.logits))
    assert np.min(weights[:2]) > 0
    assert weights[2] == 0


@pytest.mark.slow
def test_gradnorm_has_the_gradients_of_libmtl(x64):
  sequence = LIBMTL['GradNorm(alpha=1.5,L0=[2,1.5,1.2],logit lr 0.1)']
  rule = make(
    'gradnorm', alpha=sequence['params']['alpha'], optimizer=optax.sgd(1.0)
  )
  rtol = tolerance(x64, 1e-9)
  for step in sequence['steps']:
    rows, logits = np.array(step['J']), jnp.array(step['loss_scale'])
    state = init(rule, 3)._replace(
      logits=logits,
      initial_losses=jnp.array([2.0, 1.5, 1.2]),
      step=jnp.ones((), jnp.int32),
    )
    weights, after = update(rule, observe(rows, step['losses']), state)
    np.testing.assert_allclose(weights, step['reported_weight'], rtol=rtol)
    # Ours is of the distance in units of Ḡ.
    weights = np.asarray(weights, float)
    average = np.mean(weights * np.linalg.norm(rows, axis=1))
    np.testing.assert_allclose(
      (logits - after.logits) * average,
      step['loss_scale_grad'],
      rtol=0,
      atol=rtol * 10,
    )
    np.testing.assert_allclose(rows.T @ weights, step['grad'], atol=rtol)


# What TorchJD makes of several steps.

# Its name for them: ours, which of its parameters is which of ours, what its
# input is to us, and the tolerance in float64.
SDMGRAD = {
  'step_size': 'lr',
  'momentum': 'momentum',
  'num_steps': 'n_iter',
  'regularization': 'lambda_',
}
SEQUENCES = {
  # It adds 1e-8 to denominators.
  'GradVac(K=2,beta=0.5)': ('gradvac', {'beta': 'beta'}, gramian, 1e-7),
  # Its Frank-Wolfe stops early: what is compared is our exact minimiser.
  'CRMOGM(MGDA,alpha=0.9)': ('cr_mogm', {'decay': 'alpha'}, gramian, 1e-3),
  'CRMOGM(MGDA,alpha=0.5,init=uniform)': (
    'cr_mogm',
    {'decay': 'alpha'},
    gramian,
    1e-3,
  ),
  'MoDo': (
    'modo',
    {'step_size': 'gamma', 'regularization': 'rho'},
    cross,
    1e-10,
  ),
  'MoDo_rho0': (
    'modo',
    {'step_size': 'gamma', 'regularization': 'rho'},
    cross,
    1e-10,
  ),
  # It adds 1e-8 to the scale.
  'SDMGrad': ('sdmgrad', SDMGRAD, cross, 1e-8),
  'SDMGrad_small_lr': ('sdmgrad', SDMGRAD, cross, 1e-8),
  # It adds 1e-7 to sums of squares.
  'ExcessMTL_warmup2': (
    'excess_mtl',
    {'step_size': 'robust_step_size', 'num_warmup_steps': 'n_warmup_steps'},
    lambda rows: observe(rows, jacobian=True),
    1e-4,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SEQUENCES)
def test_rules_follow_the_sequences_of_torchjd(name, x64):
  ours, arguments, seen, wide = SEQUENCES[name]
  params = TORCHJD[name]['params']
  rule = make(ours, **{key: params[value] for key, value in arguments.items()})
  steps = TORCHJD[name]['steps']
  state = init(rule, len(steps[0]['weights']), 6)
  if params.get('initial_weights') is not None:
    state = state._replace(
      mean=jnp.asarray(params['initial_weights']), step=jnp.ones((), jnp.int32)
    )
  rtol = tolerance(x64, wide, max(wide, 1e-4))
  for step in steps:
    weights, state = update(rule, seen(step['input']), state)
    np.testing.assert_allclose(weights, step['weights'], rtol=rtol, atol=rtol)


def test_rules_refuse_what_makes_no_sense():
  for name, argument, values in (
    ('gradvac', 'beta', (-0.1, 1.5, np.nan, [0.5, 0.5])),
    ('graddrop', 'leak', (-0.1, 1.1, np.nan, [0.5, 2.0], [[0.5]])),
    ('krum', 'num_byzantine', (-1,)),
    ('krum', 'num_selected', (0,)),
    ('trimmed_mean', 'num_trimmed', (-1,)),
    ('cr_mogm', 'decay', (-0.1, 1.1, np.nan, [0.5])),
    ('modo', 'step_size', (-0.1,)),
    ('modo', 'regularization', (np.inf,)),
    ('sdmgrad', 'step_size', (np.nan,)),
    ('sdmgrad', 'momentum', (1.0,)),
    ('sdmgrad', 'regularization', ([0.1],)),
    ('sdmgrad', 'num_steps', (0,)),
    ('sdmgrad', 'preference', ([0.0, 0.0], [1.5, -0.5], 1.0)),
    ('moco', 'tracker_step', (1.1,)),
    ('moco', 'step_size', (-1.0,)),
    ('moco', 'regularization', (np.nan,)),
    ('db_mtl', 'decay', (1.0,)),
    ('db_mtl', 'decay_power', (-0.5,)),
    ('gradnorm', 'alpha', (-0.5,)),
    ('gradnorm', 'optimizer', (optax.adam,)),
    ('excess_mtl', 'step_size', (np.inf,)),
    ('excess_mtl', 'num_warmup_steps', (0,)),
  ):
    for value in values:
      with pytest.raises(ValueError, match=f'{name} was given .*{argument}'):
        getattr(weightings, name)(**{argument: value})
  with pytest.raises(ValueError, match=r'expected a mimo_jax\.Weighting'):
    weightings.cr_mogm(weightings.mgda)


def test_rules_refuse_another_number_of_objectives_or_other_weights():
  observation = observe(jacobians.generic(3, 7), jacobian=True)
  observation = observation._replace(cross_gramian=jnp.eye(3))
  for rule, message in (
    (make('graddrop', leak=(0.5, 0.2)), '2 values of leak for 3 objectives'),
    (make('krum', num_byzantine=1), 'at least 4 objectives'),
    (make('krum', num_selected=4), 'num_selected=4 for 3 objectives'),
    (make('trimmed_mean', num_trimmed=2), 'for 3 objectives.*at least 5'),
    (
      make('sdmgrad', preference=(0.5, 0.5)),
      '2 values of preference for 3 objectives',
    ),
    (weightings.cr_mogm(make('trimmed_mean')), r'returns dict.*\(3,\)'),
    (weightings.cr_mogm(make('moco')), r'returns Direction.*\(3,\)'),
  ):
    with pytest.raises(ValueError, match=message):
      rule.update(observation, init(rule, 3, 7))


# All of them


@pytest.mark.slow
@pytest.mark.parametrize('name', RULES)
def test_sixty_four_objectives_of_any_scale_have_finite_weights(name):
  rule = make(name)
  generic = jacobians.generic(64, 70)
  awkward = np.repeat(generic, 2, axis=0)[:64]
  awkward[5], awkward[9], awkward[11] = 0, -3 * awkward[0], 1e-4 * awkward[1]
  state, cosines = init(rule, 64, 70), cross_gramian(64)
  losses = jacobians.losses_of(generic)
  for scale in (1e-12, 1.0, 1e12):
    for rows in (generic, awkward, 0 * generic):
      observation = observe(scale * rows, losses, jacobian=True)._replace(
        cross_gramian=jnp.asarray(scale**2 * cosines)
      )
      weights, state = update(rule, observation, state)
      for leaf in jax.tree.leaves(weights):
        assert np.all(np.isfinite(leaf)), scale
