"""The weightings that see losses only, by their definitions in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

import mimo_jax
from mimo_jax import weightings
from tests import reference

REFERENCE = reference.read('loss_weightings')
LOSSES = np.array([0.35, 1.2, 0.7, 2.9, 0.1])
SAMPLES = {
  'one': np.array([0.4]),
  'two': np.array([2.5, 0.3]),
  'five': LOSSES,
  'uneven': np.array([3e-4, 40.0, 1.0, 0.2, 7.0]),
  'many': 0.1 + np.sin(1.0 + np.arange(64)) ** 2,
}


def observe(losses, after=None):
  # Cut to the precision that is on, without a warning.
  dtype = jnp.result_type(float)
  after = None if after is None else jnp.asarray(after, dtype)
  return mimo_jax.Observation(jnp.asarray(losses, dtype), losses_after=after)


def weigh(rule, losses, after=None):
  """The weights of the first step, as float64."""
  state = rule.init(len(losses))
  weights, _ = rule.update(observe(losses, after), state)
  return np.asarray(weights, np.float64)


def run(rule, sequence, after=None):
  """Weights [T, K] of a sequence of losses [T, K], and the last state."""
  sequence = np.asarray(sequence)
  after = sequence if after is None else np.asarray(after)

  def step(state, observation):
    weights, state = rule.update(observation, state)
    return state, weights

  state, weights = jax.jit(functools.partial(jax.lax.scan, step))(
    rule.init(sequence.shape[1]), observe(sequence, after)
  )
  return np.asarray(weights, np.float64), state


def falling(size=3, steps=12, seed=0):
  """Noisy losses that fall at different rates, [T, K]."""
  random = np.random.RandomState(seed)
  rates = np.linspace(0.7, 0.98, size)
  noise = np.exp(0.1 * random.normal(size=[steps, size]))
  return np.linspace(3, 0.5, size) * rates ** np.arange(steps)[:, None] * noise


# Every scalarization as numpy writes it, of complex losses too: f(L + ih)/h
# has the derivative as its imaginary part, without a difference that rounds.


def even(losses):
  return np.full(len(losses), 1 / len(losses))


def uneven(losses):
  return np.linspace(0.3, 1.1, len(losses)) ** 2


def length(vector):
  return np.sqrt(np.sum(vector**2))


def geometric_mean(losses):
  return np.exp(np.mean(np.log(losses)))


def smooth_tchebycheff(losses, temperature, preference, ideal):
  exponents = preference * (losses - ideal) / temperature
  largest = exponents[np.argmax(exponents.real)]
  return temperature * (largest + np.log(np.sum(np.exp(exponents - largest))))


def cosine_penalised(losses, penalty, preference):
  cosine = preference @ losses / length(preference) / length(losses)
  return preference @ losses - penalty * cosine


def boundary_intersection(losses, penalty, preference, ideal):
  direction = preference / length(preference)
  gap = losses - ideal
  along = gap @ direction
  return along + penalty * length(gap - along * direction)


def uncertainty(losses, log_variances):
  return np.sum(np.exp(-log_variances) * losses + log_variances) / 2


def impartial(losses, log_scales):
  return np.sum(np.exp(log_scales) * losses - log_scales)


def log_sum(losses, shares, minima):
  """FAMO's, with its constant."""
  constant = 1 / np.sum(shares / (losses.real - minima))
  return constant * np.sum(shares * np.log(losses - minima))


def ideal_of(losses):
  return np.linspace(-0.2, 0.05, len(losses))


# name: (the rule for these losses, its scalarization)
SCALARIZATIONS = {
  'geometric_mean': lambda _: (
    weightings.geometric_mean(),
    geometric_mean,
  ),
  'stch': lambda losses: (
    weightings.stch(),
    lambda x: smooth_tchebycheff(x, 1.0, even(losses), 0.0),
  ),
  'sharp stch': lambda losses: (
    weightings.stch(0.02, uneven(losses), ideal_of(losses)),
    lambda x: smooth_tchebycheff(x, 0.02, uneven(losses), ideal_of(losses)),
  ),
  'cosmos': lambda losses: (
    weightings.cosmos(),
    lambda x: cosine_penalised(x, 1.0, even(losses)),
  ),
  'uneven cosmos': lambda losses: (
    weightings.cosmos(3.5, uneven(losses)),
    lambda x: cosine_penalised(x, 3.5, uneven(losses)),
  ),
  'pbi': lambda losses: (
    weightings.pbi(),
    lambda x: boundary_intersection(x, 5.0, even(losses), 0.0),
  ),
  'uneven pbi': lambda losses: (
    weightings.pbi(0.7, uneven(losses), ideal_of(losses)),
    lambda x: boundary_intersection(x, 0.7, uneven(losses), ideal_of(losses)),
  ),
  'uw': lambda losses: (
    weightings.uw(init=uneven(losses) - 0.4),
    lambda x: uncertainty(x, uneven(losses) - 0.4),
  ),
  'imtl_l': lambda losses: (
    weightings.imtl_l(init=uneven(losses) - 0.4),
    lambda x: impartial(x, uneven(losses) - 0.4),
  ),
  'famo': lambda losses: (
    weightings.famo(),
    lambda x: log_sum(x, even(losses), 0.0),
  ),
  'famo with minima': lambda losses: (
    weightings.famo(minima=ideal_of(losses) - 0.06),
    lambda x: log_sum(x, even(losses), ideal_of(losses) - 0.06),
  ),
}


@pytest.mark.parametrize(
  'samples',
  [
    ('five',),
    pytest.param(('one', 'two', 'uneven', 'many'), marks=pytest.mark.slow),
  ],
  ids=['five', 'others'],
)
@pytest.mark.parametrize('name', SCALARIZATIONS)
def test_weights_are_the_gradient_of_the_scalarization(name, samples, x64):
  for sample in samples:
    losses = SAMPLES[sample]
    rule, scalar = SCALARIZATIONS[name](losses)
    if 'pbi' in name and len(losses) == 1:
      expected = [1.0]  # on the ray, where the root has no derivative
    else:
      nudges = losses + 1e-200j * np.eye(len(losses))
      expected = [scalar(nudge).imag / 1e-200 for nudge in nudges]
    np.testing.assert_allclose(
      weigh(rule, losses, after=losses),
      expected,
      rtol=1e-11 if x64 else 1e-4,
      atol=(1e-13 if x64 else 3e-5) * np.max(np.abs(expected)),
      err_msg=sample,
    )


# Of the reference: the rule, by the name that the reference has.
LIBRARY = {
  'GeometricMean': lambda _: weightings.geometric_mean(),
  'STCH(mu=1,weights=uniform)': lambda _: weightings.stch(1.0),
  'STCH(mu=0.1,weights=uniform)': lambda _: weightings.stch(0.1),
  'STCH(mu=0.01,weights=pref,reference=0.01)': lambda preference: (
    weightings.stch(0.01, preference, 0.01)
  ),
  'UW(log_var=0)': lambda _: weightings.uw(),
  'UW(log_var=linspace(-1,1))': lambda preference: weightings.uw(
    init=np.linspace(-1, 1, len(preference))
  ),
  'IMTLL(log_scale=linspace(-0.5,0.5))': lambda preference: weightings.imtl_l(
    init=np.linspace(-0.5, 0.5, len(preference))
  ),
  'COSMOS(lambda=1,weights=pref)': lambda preference: weightings.cosmos(
    1.0, preference
  ),
  'COSMOS(lambda=8,weights=pref)': lambda preference: weightings.cosmos(
    8.0, preference
  ),
  'PBI(theta=5,weights=pref)': lambda preference: weightings.pbi(
    5.0, preference
  ),
  'PBI(theta=0.5,weights=pref,reference=0.01)': lambda preference: (
    weightings.pbi(0.5, preference, 0.01)
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', LIBRARY)
def test_weights_are_those_of_the_reference(name, x64):
  for case in REFERENCE['scalarizations'].values():
    assert set(case['weights']) == set(LIBRARY)
    if case['weights'][name] is None:  # not finite there; finite here, below
      assert name == 'GeometricMean'
      assert min(case['losses']) <= 0
      continue
    rule = LIBRARY[name](case['preference'])
    np.testing.assert_allclose(
      weigh(rule, case['losses']),
      case['weights'][name],
      rtol=1e-10 if x64 else 2e-4,
      # Of the reference, whose root of PBI has 1e-12 added.
      atol=1e-10 if x64 else 2e-5,
    )


@pytest.mark.slow
def test_gradient_is_that_of_the_other_reference(x64):
  for name, rule in (
    ('GLS', weightings.geometric_mean()),
    ('UW(first call)', weightings.uw(init=-0.5)),
  ):
    for case in REFERENCE['libmtl']:
      np.testing.assert_allclose(
        weigh(rule, case['losses']) @ np.array(case['J']),
        case['gradient'][name],
        rtol=1e-10 if x64 else 1e-5,
        atol=1e-12 if x64 else 1e-6,
        err_msg=name,
      )


# Random weights.


def test_random_weights_are_a_softmax_of_normal_draws():
  update = jax.vmap(
    lambda key: weightings.random().update(
      observe(LOSSES[:3]), weightings.random().init(3)._replace(key=key)
    )[0]
  )
  weights = np.asarray(
    jax.jit(update)(
      jax.random.key_data(jax.random.split(jax.random.key(3), 9000))
    )
  )
  assert weights.min() > 0
  np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.008)
  # log w_i − log w_j = z_i − z_j, of variance 2 and fourth moment 3 · 2².
  for i, j in ((0, 1), (1, 2), (2, 0)):
    differences = np.log(weights[:, i] / weights[:, j])
    assert abs(differences.mean()) < 0.06
    np.testing.assert_allclose(np.mean(differences**2), 2, rtol=0.06)
    np.testing.assert_allclose(np.mean(differences**4), 12, rtol=0.15)


def test_random_weights_follow_from_the_seed_and_not_from_the_losses():
  first, state = run(weightings.random(seed=5), falling(seed=1))
  again, _ = run(weightings.random(seed=5), 1e6 * falling(seed=2))
  np.testing.assert_array_equal(first, again)
  other, _ = run(weightings.random(seed=6), falling(seed=1))
  assert not np.any(first == other)
  assert len(np.unique(first[:, 0])) == len(first)
  fresh = weightings.random(seed=5).init(3)
  assert not jnp.all(
    jax.random.key_data(state.key) == jax.random.key_data(fresh.key)
  )


@pytest.mark.slow
def test_random_takes_a_traced_seed():
  def draw(seed):
    rule = weightings.random(seed)
    return rule.update(observe(LOSSES), rule.init(5))[0]

  np.testing.assert_array_equal(
    jax.vmap(draw)(jnp.arange(2))[1], draw(1).astype(jnp.float32)
  )


# Geometric mean.


def test_geometric_mean_of_extreme_losses_is_exact():
  rule = weightings.geometric_mean()
  # A product of 64 of them is beyond float64, too.
  for losses in (LOSSES, SAMPLES['many']):
    expected = weigh(rule, losses)
    for scale in (1e-30, 1e-12, 1e12, 1e30):
      np.testing.assert_allclose(
        weigh(rule, scale * losses), expected, rtol=2e-5
      )
  spread = np.array([1e-20, 1.0, 1e17])
  np.testing.assert_allclose(
    weigh(rule, spread), scipy.stats.gmean(spread) / 3 / spread, rtol=2e-5
  )
  weights = weigh(rule, [1e-37, 1e38, 1e38])
  assert np.all(np.isfinite(weights))
  assert weights[0] > 1e37


def test_geometric_mean_leaves_out_losses_that_are_not_positive(x64):
  rule, mean = weightings.geometric_mean(), 4 ** (1 / 3)
  expected = [mean / 4 / 0.5, 0, mean / 4 / 2, mean / 4 / 4]
  for spent in (0.0, -0.3, -1e30):
    np.testing.assert_allclose(
      weigh(rule, [0.5, spent, 2.0, 4.0]), expected, rtol=1e-13 if x64 else 1e-6
    )
  for losses in ([0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, -3.0, -1e-30]):
    np.testing.assert_array_equal(weigh(rule, losses), [0.25] * 4)


def test_nan_is_no_loss_that_is_spent():
  losses = np.array([0.5, np.nan, 2.0])
  for rule in (weightings.geometric_mean(), weightings.famo()):
    assert np.all(np.isnan(weigh(rule, losses, after=LOSSES[:3])))


# Dynamic weight average.


def averaged_dynamically(sequence, temperature, steps_per_epoch):
  """DWA in numpy, from the whole history."""
  size = sequence.shape[1]
  weights = []
  for step in range(len(sequence)):
    epoch = step // steps_per_epoch
    if epoch < 2:
      weights.append(np.ones(size))
      continue
    means = [
      sequence[e * steps_per_epoch : (e + 1) * steps_per_epoch].mean(0)
      for e in (epoch - 1, epoch - 2)
    ]
    rates = means[0] / means[1]
    weights.append(size * scipy.special.softmax(rates / temperature))
  return np.array(weights)


@pytest.mark.parametrize(
  ('temperature', 'steps_per_epoch'),
  [
    (0.05, 3),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in ((2.0, 1), (0.05, 1), (2.0, 5))
    ),
  ],
)
def test_dwa_compares_the_last_two_epochs(temperature, steps_per_epoch, x64):
  for size in (1, 3, 64):
    sequence = falling(size, steps=17)
    weights, _ = run(weightings.dwa(temperature, steps_per_epoch), sequence)
    np.testing.assert_allclose(
      weights,
      averaged_dynamically(sequence, temperature, steps_per_epoch),
      rtol=1e-12 if x64 else 1e-4,
    )
    np.testing.assert_allclose(weights.sum(1), size, rtol=1e-5)


def test_dwa_is_that_of_the_reference(x64):
  for case in REFERENCE['dwa']:
    weights, _ = run(
      weightings.dwa(case['temperature'], steps_per_epoch=2),
      [step['losses'] for step in case['steps']],
    )
    np.testing.assert_allclose(
      weights,
      [step['weights'] for step in case['steps']],
      rtol=1e-12 if x64 else 1e-5,
    )


def test_dwa_weighs_the_slowest_most():
  weights, _ = run(weightings.dwa(1e-6), [[1.0, 1.0, 1.0], [0.5, 0.8, 0.7]] * 2)
  np.testing.assert_array_equal(weights[2], [0, 3, 0])
  weights, _ = run(weightings.dwa(math.inf), falling())
  np.testing.assert_array_equal(weights, np.ones([12, 3]))


def test_dwa_of_losses_that_are_zero_is_finite():
  # Of the last call: no rate stands for 1; from tiny to huge is the largest.
  weights, _ = run(
    weightings.dwa(1.0), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.5], [9.0, 9.0, 9.0]]
  )
  np.testing.assert_allclose(
    weights[2], 3 * scipy.special.softmax([1, 1, 0.5]), rtol=1e-6
  )
  weights, _ = run(
    weightings.dwa(0.5), [[1e-30, 1.0, 1.0], [1e30, 0.5, 0.4], [1.0, 1.0, 1.0]]
  )
  np.testing.assert_array_equal(weights[2], [3, 0, 0])


# Learned scales: UW and IMTL-L.

LEARNED = {
  # name: (weight of s, slope in s, field of the state)
  'uw': (
    lambda s: np.exp(-s) / 2,
    lambda s, losses: 0.5 - np.exp(-s) * losses / 2,
    'log_variances',
  ),
  'imtl_l': (np.exp, lambda s, losses: np.exp(s) * losses - 1, 'log_scales'),
}
each_learned = pytest.mark.parametrize('name', LEARNED)


@each_learned
def test_learned_scales_descend_their_slope(name, x64):
  weight, slope, field = LEARNED[name]
  sequence = falling()
  s = np.array([0.2, -0.4, 0.1])
  rule = getattr(weightings, name)(optax.sgd(0.1), init=s)
  weights, state = run(rule, sequence)
  for losses, actual in zip(sequence, weights, strict=True):
    # The present s weighs, then moves.
    np.testing.assert_allclose(actual, weight(s), rtol=1e-12 if x64 else 1e-5)
    s = s - 0.1 * slope(s, losses)
  np.testing.assert_allclose(
    getattr(state, field), s, rtol=1e-12 if x64 else 1e-4
  )


@each_learned
def test_learned_scales_have_adam_by_default(name, x64):
  weight, slope, _ = LEARNED[name]
  sequence = falling()
  weights, _ = run(getattr(weightings, name)(), sequence)
  s, first, second = np.zeros([3, 3])
  for step, (losses, actual) in enumerate(
    zip(sequence, weights, strict=True), start=1
  ):
    np.testing.assert_allclose(actual, weight(s), rtol=1e-9 if x64 else 1e-5)
    gradient = slope(s, losses)
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    root = np.sqrt(second / (1 - 0.999**step)) + 1e-8
    s = s - 0.025 * first / (1 - 0.9**step) / root


@each_learned
def test_a_loss_that_is_spent_does_not_move_its_scale(name):
  field = LEARNED[name][2]
  sequence = np.tile([0.0, 0.7, -3.0], [50, 1])
  rule = getattr(weightings, name)(init=[0.3, 0.2, -0.1])
  weights, state = run(rule, sequence)
  s = np.asarray(getattr(state, field))
  np.testing.assert_array_equal(s[[0, 2]], np.float32([0.3, -0.1]))
  assert abs(s[1] - 0.2) > 0.1
  np.testing.assert_array_equal(
    weights[:, [0, 2]], weights[:1, [0, 2]].repeat(50, 0)
  )


@each_learned
def test_a_scale_that_overshoots_stays_finite(name):
  sign = {'uw': -1, 'imtl_l': 1}[name]
  rule = getattr(weightings, name)(init=[200.0 * sign, 0.3 * sign])
  weights = weigh(rule, [0.0, 0.5])
  assert 1e38 < weights[0] < math.inf


@pytest.mark.slow
@each_learned
def test_a_first_scale_for_each_objective_tells_balance_how_many(name):
  weight = LEARNED[name][0]
  rule = getattr(weightings, name)(init=[0.2, -0.3])
  optimizer = mimo_jax.balance(rule)
  params = jnp.array([1.0, -2.0])
  losses, pullback = jax.vjp(lambda x: [x[0] ** 2, x[1] ** 2], params)
  updates, _ = optimizer.update(
    pullback, optimizer.init(params), params, losses=losses
  )
  expected = weight(np.array([0.2, -0.3])) * [2, -4]
  np.testing.assert_allclose(updates, expected, rtol=1e-6)


# Smooth Tchebycheff.


def test_stch_between_the_worst_and_all():
  preference = [0.5, 0.4, 0.3, 0.2, 0.1]
  weights = weigh(weightings.stch(1e-6, preference), LOSSES)
  np.testing.assert_allclose(weights, [0, 0, 0, 0.2, 0], rtol=1e-6)
  weights = weigh(weightings.stch(math.inf, preference), LOSSES)
  np.testing.assert_allclose(weights, np.array(preference) / 5, rtol=1e-6)


def test_stch_of_extreme_losses_is_finite():
  weights = weigh(weightings.stch(1e-6), [1e35, -1e35, 3.0, 1e35])
  np.testing.assert_allclose(weights, [0.125, 0, 0, 0.125], rtol=1e-6)


# FAMO.


def test_famo_is_that_of_the_reference(x64):
  steps = REFERENCE['famo']
  losses = [step['losses'] for step in steps]
  # In the first call there is no step before.
  after = [[7.0, 3.0, 5.0], *(step['after'] for step in steps[:-1])]
  rule = weightings.famo(minima=-1e-8)  # the reference adds it to the losses
  weights, state = run(rule, losses, after)
  np.testing.assert_allclose(
    weights,
    [step['weights'] for step in steps],
    rtol=1e-10 if x64 else 1e-5,
  )
  np.testing.assert_allclose(
    state.logits,
    steps[-2]['logits'],
    rtol=1e-9 if x64 else 1e-4,
    atol=1e-14,
  )


def test_famo_descends_its_slope_and_then_weighs(x64):
  sequence = falling(4)
  after = np.roll(sequence, 1, axis=0) * np.linspace(0.9, 0.97, 4) ** 2
  minima = np.array([-0.1, 0.0, 1e-3, -0.3])
  rule = weightings.famo(optax.sgd(2.0), minima)
  weights, state = run(rule, sequence, after)
  logits = np.zeros(4)
  for step, actual in enumerate(weights):
    if step:
      shares = scipy.special.softmax(logits)
      progress = np.log(sequence[step - 1] - minima) - np.log(
        after[step] - minima
      )
      # The slope of Σ zᵢ δᵢ in the logits, as the Jacobian of softmax has it.
      jacobian = np.diag(shares) - np.outer(shares, shares)
      logits = logits - 2 * jacobian @ progress
    ratios = scipy.special.softmax(logits) / (sequence[step] - minima)
    np.testing.assert_allclose(
      actual, ratios / ratios.sum(), rtol=1e-12 if x64 else 1e-5
    )
  np.testing.assert_allclose(state.logits, logits, rtol=1e-12 if x64 else 1e-4)


def test_famo_does_not_look_at_the_losses_after_in_the_first_step():
  sequence, after = falling(), 0.9 * np.roll(falling(), 1, axis=0)
  expected, _ = run(weightings.famo(), sequence, after)
  for first in (0.0, 1e30, np.nan):
    after[0] = first
    np.testing.assert_array_equal(
      run(weightings.famo(), sequence, after)[0], expected
    )


def test_famo_leaves_out_what_is_spent(x64):
  tolerance = 1e-12 if x64 else 1e-5
  # Objective 1 is spent before, after, or at the present losses.
  for before, after, present in (
    (0.1, 0.9, 0.7),
    (0.9, -3.0, 0.7),
    (0.9, 0.9, 0.1),
  ):
    sequence = [[1.0, before, 2.0], [1.0, present, 2.0]]
    weights, state = run(
      weightings.famo(optax.sgd(1.0), minima=[0.0, 0.1, 0.0]),
      sequence,
      [[1.0, 1.0, 1.0], [0.5, after, 1.9]],
    )
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    for losses, actual in zip(sequence, weights, strict=True):
      assert (actual[1] == 0) == (losses[1] == 0.1)
    if present == 0.1:  # then the step before counts
      assert state.logits[1] != 0
      continue
    # Of the two that are left; half of the shares each.
    progress = np.log([2.0, 2.0 / 1.9])
    move = 0.5 * (progress - progress.mean())
    np.testing.assert_allclose(
      state.logits, [-move[0], 0, -move[1]], rtol=tolerance
    )


def test_famo_of_losses_that_are_all_spent_has_the_weights_of_its_logits():
  sequence = [[1.0, 2.0, 3.0], [0.0, 0.0, -1.0], [0.0, -2.0, 0.0]]
  after = [[1.0, 1.0, 1.0], [0.5, 1.9, 0.2], [0.0, 0.0, 0.0]]
  weights, state = run(weightings.famo(optax.sgd(1.0)), sequence, after)
  expected = scipy.special.softmax(np.asarray(state.logits, float))
  np.testing.assert_allclose(weights[1:], [expected] * 2, rtol=1e-5)
  assert np.ptp(expected) > 0.1


def test_famo_of_losses_far_apart_is_finite():
  sequence = [[1e-30, 1e30, 1.0], [1e30, 1e-30, 1.0]]
  after = [[1.0, 1.0, 1.0], [1e30, 1e-30, 1.0]]
  weights, state = run(weightings.famo(optax.sgd(1.0)), sequence, after)
  np.testing.assert_allclose(weights, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
  assert np.all(np.isfinite(state.logits))
  assert state.logits[0] > state.logits[2] > state.logits[1]


@pytest.mark.slow
def test_famo_in_balance_is_told_of_the_step_before():
  names = ('fused', 'audio', 'visual')
  targets = jnp.array([[1.0, 0.0], [3.0, 1.0], [-2.0, 2.0]])

  def losses_fn(params):
    squares = jnp.sum((params[None] - targets) ** 2, axis=1)
    return dict(zip(names, 0.1 + squares, strict=True))

  rule = weightings.famo()
  optimizer = mimo_jax.balance(rule, objectives=names)
  params = jnp.array([0.3, -0.4])
  opt_state, state = optimizer.init(params), rule.init(3)
  after = losses_fn(params)
  for _ in range(4):
    losses, pullback = jax.vjp(losses_fn, params)
    updates, opt_state = optimizer.update(
      pullback, opt_state, params, losses=losses, losses_after=after
    )
    weights, state = rule.update(
      observe(
        *(jnp.stack([each[n] for n in names]) for each in (losses, after))
      ),
      state,
    )
    np.testing.assert_allclose(opt_state.weights, weights, rtol=1e-6)
    params = params - 0.1 * updates
    # Here the next batch is the last, so that these are the next losses, too.
    after = losses_fn(params)
  np.testing.assert_allclose(opt_state.weighting.logits, state.logits)
  assert np.ptp(state.logits) > 0.01


# COSMOS and PBI.


def test_cosmos_without_penalty_is_the_preference(x64):
  preference = uneven(LOSSES)
  weights = weigh(weightings.cosmos(0, preference), LOSSES)
  np.testing.assert_allclose(weights, preference, rtol=1e-15 if x64 else 1e-6)
  for losses in (LOSSES, np.zeros(5)):
    rule = weightings.cosmos(0 if losses.any() else 40.0)
    np.testing.assert_allclose(weigh(rule, losses), 0.2, rtol=1e-6)


def test_cosmos_on_the_ray_is_the_preference(x64):
  preference = uneven(LOSSES)
  weights = weigh(weightings.cosmos(1.0, preference), 3.7 * preference)
  np.testing.assert_allclose(weights, preference, atol=1e-15 if x64 else 3e-7)


def test_pbi_has_a_unit_along_the_ray_and_the_penalty_across(x64):
  rtol = 1e-11 if x64 else 2e-4
  for sample in ('two', 'five', 'uneven', 'many'):
    losses = SAMPLES[sample]
    direction = uneven(losses) / length(uneven(losses))
    # S is of degree one in L.
    value = boundary_intersection(losses, 2.5, uneven(losses), 0.0)
    for scale in (1e-20, 1.0, 1e20):
      weights = weigh(weightings.pbi(2.5, uneven(losses)), scale * losses)
      np.testing.assert_allclose(weights @ direction, 1, rtol=rtol)
      np.testing.assert_allclose(length(weights - direction), 2.5, rtol=rtol)
      np.testing.assert_allclose(weights @ losses, value, rtol=rtol)


@pytest.mark.slow
def test_pbi_on_the_ray_does_not_follow_rounding(x64):
  random = np.random.RandomState(0)

  def weigh_on_ray(preference, ideal, away):
    rule = weightings.pbi(5.0, preference, ideal)
    return rule.update(mimo_jax.Observation(ideal + away * preference), ())[0]

  for size in (1, 2, 3, 7, 64):
    preference = 0.01 + random.uniform(size=[40, size])
    ideal = random.normal(size=[40, size])
    away = np.tile([0.0, 1e-3, 1.0, 1e4], 10)
    dtype = jnp.result_type(float)
    weights = jax.jit(jax.vmap(weigh_on_ray))(
      *(jnp.asarray(each, dtype) for each in (preference, ideal, away))
    )
    np.testing.assert_allclose(
      weights,
      preference / np.linalg.norm(preference, axis=1, keepdims=True),
      rtol=1e-14 if x64 else 1e-6,
    )


def test_pbi_near_the_ray_but_off_it_pays_the_penalty():
  losses = np.array([1.0, 1.0 + 1e-5, 1.0])
  weights = weigh(weightings.pbi(5.0), losses)
  across = 5 * np.array([-1, 2, -1]) / math.sqrt(6)
  np.testing.assert_allclose(weights, 3**-0.5 + across, atol=0.1)


# What rules are made with.


@pytest.mark.slow
@pytest.mark.parametrize(
  'make',
  [
    lambda value: weightings.dwa(temperature=value),
    lambda value: weightings.stch(temperature=value),
    lambda value: weightings.stch(preference=jnp.stack([value, 1.0, 0.4])),
    lambda value: weightings.stch(0.1, ideal=jnp.stack([0.1, value, 0.0])),
    lambda value: weightings.cosmos(penalty=value),
    lambda value: weightings.pbi(penalty=value),
    lambda value: weightings.pbi(ideal=jnp.stack([value, 0.0, 0.1])),
    lambda value: weightings.uw(init=value),
    lambda value: weightings.imtl_l(optax.sgd(value)),
    lambda value: weightings.famo(optax.sgd(value), minima=-value),
  ],
)
def test_rules_take_traced_numbers(make):
  def weigh_last(value):
    rule = make(value)
    state = rule.init(3)
    for losses in falling(steps=3):
      weights, state = rule.update(observe(losses, 0.5 * losses**2), state)
    return weights

  values = jnp.array([0.3, 1.7])
  together = jax.jit(jax.vmap(weigh_last))(values)
  for value, weights in zip(values, together, strict=True):
    np.testing.assert_allclose(weights, weigh_last(value), rtol=2e-5)
  assert np.all(np.abs(together[0] - together[1]).max() > 1e-3)


def test_rules_refuse_what_makes_no_sense():
  for make, message in (
    (lambda: weightings.random(0.5), r'random .* seed=0\.5.*whole'),
    (lambda: weightings.random([1, 2]), r'random .* seed=\[1, 2\]'),
    (lambda: weightings.dwa(0.0), r'dwa .* temperature=0\.0.*above 0'),
    (lambda: weightings.dwa(math.nan), r'temperature=nan.*above 0'),
    (lambda: weightings.dwa(2.0, 0), r'steps_per_epoch=0.*at least 1'),
    (lambda: weightings.dwa(2.0, 2.5), r'steps_per_epoch=2\.5.*whole'),
    (lambda: weightings.stch(-1.0), r'stch .* temperature=-1\.0.*above 0'),
    (lambda: weightings.stch([1.0, 2.0]), r'temperature=\[1\.0, 2\.0\]'),
    (lambda: weightings.stch(1.0, 0.5), r'preference=0\.5.*a vector \[K\]'),
    (lambda: weightings.stch(1.0, [0.5, -0.1]), 'at least 0 and not all 0'),
    (lambda: weightings.stch(1.0, [1.0], [[0.1]]), r'ideal of shape \(1, 1\)'),
    (lambda: weightings.cosmos(-0.1), r'cosmos .* penalty=-0\.1.*at least 0'),
    (lambda: weightings.cosmos(math.inf), 'penalty=inf'),
    (lambda: weightings.cosmos(1.0, [0.0, 0.0]), 'not all 0'),
    (lambda: weightings.cosmos(1.0, [1.0, math.inf]), 'finite numbers'),
    (lambda: weightings.pbi(-2), r'pbi .* penalty=-2.*at least 0'),
    (lambda: weightings.pbi(1.0, [math.nan, 1.0]), 'finite numbers'),
    (lambda: weightings.pbi(ideal=math.inf), 'ideal=inf.*finite'),
    (lambda: weightings.uw(optax.adam), r'uw .* optax\.adam\(0\.025\)'),
    (lambda: weightings.uw(init=math.nan), 'init=nan.*finite'),
    (lambda: weightings.imtl_l(0.1), r'imtl_l .* optimizer=0\.1'),
    (lambda: weightings.imtl_l(init=[[0.0]]), r'init of shape \(1, 1\)'),
    (lambda: weightings.famo('adam'), "famo .* optimizer='adam'"),
    (lambda: weightings.famo(minima=[0.0, math.inf]), 'minima=.*finite'),
  ):
    with pytest.raises(ValueError, match=message):
      make()


def test_rules_refuse_another_number_of_objectives():
  for rule, message in (
    (weightings.stch(1.0, [0.5, 0.5]), 'stch .* 2 values of preference for 3'),
    (weightings.stch(ideal=[0.0, 0.0]), 'stch .* 2 values of ideal for 3'),
    (weightings.cosmos(1.0, [1.0]), 'cosmos .* 1 values of preference for 3'),
    (weightings.pbi(1.0, [0.5] * 4), 'pbi .* 4 values of preference for 3'),
    (weightings.pbi(ideal=[0.5] * 4), 'pbi .* 4 values of ideal for 3'),
    (weightings.uw(init=[0.1, 0.2]), 'uw .* 2 values of init for 3'),
    (weightings.imtl_l(init=[0.1, 0.2]), 'imtl_l .* 2 values of init for 3'),
    (weightings.famo(minima=[0.1, 0.2]), 'famo .* 2 values of minima for 3'),
  ):
    with pytest.raises(ValueError, match=f'{message} objectives'):
      weigh(rule, LOSSES[:3], after=LOSSES[:3])
