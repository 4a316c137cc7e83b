"""MIMO: its facts, and the lexicographic problem that it solves."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import mimo_jax
from tests import jacobians

LOSSES = np.array([0.35, 1.2, 0.7, 2.9, 0.1])  # fused first


def weigh(losses, *args, **kwargs):
  rule = mimo_jax.mimo(*args, **kwargs)
  losses = jnp.asarray(losses)
  observation = mimo_jax.Observation(losses)
  return rule.update(observation, rule.init(len(losses)))[0]


def smooth_max(losses, temperature):
  """μ log( (1/M) Σ exp(F_m/μ) ), written out with the maximum taken off."""
  worst = jnp.max(losses)
  mean = jnp.mean(jnp.exp((losses - worst) / temperature))
  return worst + temperature * jnp.log(mean)


def penalised(losses, penalty, temperature):
  """Φ as a function of the losses, the fused one first."""
  return losses[0] + penalty * smooth_max(losses[1:], temperature)


# Facts of the weights.


def test_low_temperature_puts_the_penalty_on_the_worst_modality(x64):
  weights = weigh(LOSSES, penalty=2.5, temperature=1e-3)
  np.testing.assert_array_equal(weights, [1, 0, 0, 2.5, 0])
  assert weights.dtype == (jnp.float64 if x64 else jnp.float32)


def test_high_temperature_spreads_the_penalty_evenly():
  weights = weigh(LOSSES, penalty=2.5, temperature=1e8)
  np.testing.assert_allclose(weights, [1] + [2.5 / 4] * 4, rtol=1e-6)
  weights = weigh(LOSSES, penalty=2.5, temperature=math.inf)
  np.testing.assert_array_equal(weights, [1] + [2.5 / 4] * 4)


def test_weights_are_one_and_the_penalty_shared_by_softmax(x64):
  """Which is the gradient of the penalised objective."""
  for temperature in (1e-2, 0.7, 30.0):
    weights = weigh(LOSSES, penalty=0.8, temperature=temperature)
    shares = np.exp((LOSSES[1:] - LOSSES[1:].max()) / temperature)
    expected = np.append(1, 0.8 * shares / shares.sum())
    # A relative error of F/μ is an absolute one of log π.
    rtol = (1e-14 if x64 else 3e-7) * max(1, 3 / temperature)
    np.testing.assert_allclose(weights, expected, rtol=rtol, atol=1e-37)
    gradient = jax.grad(penalised)(jnp.asarray(LOSSES), 0.8, temperature)
    np.testing.assert_allclose(
      weights, gradient, rtol=1e-12 if x64 else 2e-6, atol=1e-30
    )


def test_adding_a_constant_to_every_modality_changes_nothing():
  # Eighths and whole numbers, so that adding itself does not round.
  losses = np.array([0.3, 1.25, 0.5, 2.875, 0.125], np.float32)
  weights = weigh(losses, penalty=1.7, temperature=0.3)
  for constant in (-3.0, 0.5, 1024.0):
    shifted = losses + constant * np.array([0, 1, 1, 1, 1], np.float32)
    np.testing.assert_array_equal(
      weigh(shifted, penalty=1.7, temperature=0.3), weights
    )


def test_the_fused_loss_changes_no_weight():
  for fused in (-5.0, 0.0, 1e6):
    losses = np.append(fused, LOSSES[1:])
    np.testing.assert_array_equal(weigh(losses), weigh(LOSSES))


def test_extreme_losses_and_temperatures_are_exact(x64):
  weights = weigh([1e4, 1e4, 9999.0, 3.0], penalty=0.7, temperature=1e-6)
  np.testing.assert_array_equal(
    weights, np.array([1, 0.7, 0, 0], weights.dtype)
  )
  assert weights.dtype == (jnp.float64 if x64 else jnp.float32)
  weights = weigh([0.0, -1e30, 1e30], temperature=1e-6)
  np.testing.assert_array_equal(weights, [1, 0, 1])


def test_one_modality_has_the_whole_penalty_and_a_single_objective_none():
  weights = weigh([0.2, 5.0], penalty=0.3, temperature=1e-6)
  np.testing.assert_array_equal(weights, np.float32([1, 0.3]))
  np.testing.assert_array_equal(weigh([7.0], penalty=0.3), [1])


def test_one_nan_among_the_losses_is_seen_in_the_weights():
  losses = LOSSES.copy()
  losses[2] = np.nan
  assert np.all(np.isnan(weigh(losses)[1:]))


# Schedules and sweeps.


def penalty_schedule(step):
  return 0.5 + 0.25 * step


def temperature_schedule(step):
  return 2.0 / (1 + step)


@pytest.mark.parametrize('scheduled', ['penalty', 'temperature', 'both'])
def test_schedules_see_the_number_of_steps_and_trace_once(scheduled):
  traces = []

  def penalty(step):
    traces.append(step)
    return penalty_schedule(step)

  rules = {
    'penalty': mimo_jax.mimo(penalty, 0.7),
    'temperature': mimo_jax.mimo(0.9, temperature_schedule),
    'both': mimo_jax.mimo(penalty, temperature_schedule),
  }
  rule = rules[scheduled]
  update = jax.jit(rule.update)
  state = rule.init(5)
  assert state.step.dtype == jnp.int32
  for step in range(4):
    assert int(state.step) == step
    weights, state = update(
      mimo_jax.Observation(jnp.asarray(LOSSES, jnp.float32)), state
    )
    expected = weigh(
      np.float32(LOSSES),
      penalty=0.9 if scheduled == 'temperature' else penalty_schedule(step),
      temperature=0.7 if scheduled == 'penalty' else temperature_schedule(step),
    )
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
  assert len(traces) == (0 if scheduled == 'temperature' else 1)


def test_optax_schedules_are_schedules():
  rule = mimo_jax.mimo(
    optax.linear_schedule(0.0, 2.0, 4), optax.constant_schedule(1e-3)
  )
  state = rule.init(3)
  for expected in (0.0, 0.5, 1.0, 1.5, 2.0, 2.0):
    weights, state = rule.update(
      mimo_jax.Observation(jnp.array([0.1, 0.9, 0.4])), state
    )
    np.testing.assert_allclose(weights, [1, expected, 0], rtol=1e-6)


def test_traced_parameters_are_swept_by_vmap():
  penalties, temperatures = jnp.array([0.0, 0.4, 7.0]), jnp.array([0.2, 1, 5])

  @jax.jit
  @jax.vmap
  def sweep(penalty, temperature):
    return weigh(LOSSES, penalty=penalty, temperature=temperature)

  for weights, *given in zip(
    sweep(penalties, temperatures), penalties, temperatures, strict=True
  ):
    np.testing.assert_allclose(weights, weigh(LOSSES, *given), rtol=1e-6)


def test_invalid_parameters_are_refused():
  for name, value, message in (
    ('penalty', -0.1, 'penalty=-0.1; expected a number at least 0'),
    ('penalty', math.nan, 'penalty=nan'),
    ('penalty', math.inf, 'penalty=inf'),
    ('penalty', [1.0, 2.0], r'penalty=\[1.0, 2.0\]'),
    ('penalty', jnp.array(-2.0), 'penalty=.*-2'),
    ('temperature', 0.0, 'temperature=0.0; expected a number above 0'),
    ('temperature', -1, 'temperature=-1'),
    ('temperature', math.nan, 'temperature=nan'),
    ('temperature', np.ones(1), 'temperature=array'),
  ):
    with pytest.raises(ValueError, match=message):
      mimo_jax.mimo(**{name: value})


# The lexicographic problem.


class Problem(NamedTuple):
  """F_i(θ) = ½‖A_i θ − b_i‖² + c_i; i = 0 is fused, 1..M the modalities.

  Around the lexicographic solution argmin max_m F_m is `argmin + span(free)`.
  """

  matrices: list[np.ndarray]
  targets: list[np.ndarray]
  offsets: list[float]
  argmin: np.ndarray  # a point of argmin max_m F_m
  free: np.ndarray  # [n, f], orthonormal
  min_max: float  # min_θ max_m F_m

  def losses(self, theta):
    names = ('fused', 'audio', 'visual', 'text')
    return {
      name: 0.5 * jnp.sum((a @ theta - b) ** 2) + c
      for name, a, b, c in zip(
        names, self.matrices, self.targets, self.offsets, strict=False
      )
    }

  def values(self, theta):
    return jnp.stack(list(self.losses(theta).values()))

  def objective(self, theta, penalty, temperature):
    return penalised(self.values(theta), penalty, temperature)

  def best_fused(self, theta, free):
    """The minimiser of F₀ over theta + span(free): least squares."""
    residual = self.targets[0] - self.matrices[0] @ theta
    along, *_ = np.linalg.lstsq(self.matrices[0] @ free, residual)
    return theta + free @ along

  def lexicographic(self):
    return self.best_fused(self.argmin, self.free)

  def smooth_lexicographic(self, temperature):
    """The minimiser of F₀ over argmin h, the smooth max.

    h is strictly convex in what the modalities see of θ, and constant in what
    none of them sees.
    """
    stacked = np.concatenate(self.matrices[1:])
    rank = np.linalg.matrix_rank(stacked)
    _, _, basis = np.linalg.svd(stacked)
    seen, unseen = basis[:rank].T, basis[rank:].T

    def smooth(along):
      theta = self.argmin + seen @ along
      return smooth_max(self.values(theta)[1:], temperature)

    # Where all modalities are best at once, if there is such a point.
    start, *_ = np.linalg.lstsq(
      stacked @ seen,
      np.concatenate(self.targets[1:]) - stacked @ self.argmin,
    )
    along = minimiser(smooth, start)
    return self.best_fused(self.argmin + seen @ along, unseen)


def minimiser(function, start):
  """The minimiser of a convex function: Newton, with scipy's trust region."""
  value = jax.jit(function)
  gradient, hessian = (
    jax.jit(jax.grad(function)),
    jax.jit(jax.hessian(function)),
  )
  point = scipy.optimize.minimize(
    lambda x: float(value(x)),
    start,
    jac=lambda x: np.asarray(gradient(x)),
    hess=lambda x: np.asarray(hessian(x)),
    method='trust-exact',
    options={'gtol': 1e-7, 'maxiter': 5000},
  ).x
  for _ in range(5):
    step = np.linalg.solve(hessian(point), gradient(point))
    if np.linalg.norm(gradient(point - step)) < np.linalg.norm(gradient(point)):
      point = point - step
  # ‖x − x*‖ ≤ ‖∇‖ / m with m the strong convexity near x.
  assert np.linalg.norm(
    np.linalg.solve(hessian(point), gradient(point))
  ) <= 1e-9 * (1 + np.linalg.norm(point))
  return point


def balanced():
  """Three modalities, five params; all three are equally bad at the solution.

  Modality m sees θ through A_m = R_m S with S of rank 2, so that only φ = Sθ
  matters to it. At φ* the gradients R_mᵀ r_m of the three losses have the
  positive combination zero and the losses are equal by choice of c_m, so φ* is
  the min max by convexity, and it is unique, as each R_m has full rank. The
  argmin is φ* plus the null space of S, three dimensions.
  """
  shared = jacobians.generic(2, 5)
  sees = [jacobians.generic(k, 2, seed=6) / k for k in (2, 3, 4)]
  argmin = np.array([0.4, -0.9, 0.2, 1.3, -0.5])
  gradients = [np.array([1.0, 0.4]), np.array([-0.3, 0.9])]
  gradients.append(-(gradients[0] + 2 * gradients[1]) / 1.5)
  targets, offsets = [], []
  for see, gradient in zip(sees, gradients, strict=True):
    residual = see @ np.linalg.solve(see.T @ see, gradient)
    targets.append(see @ shared @ argmin - residual)
    offsets.append(1.8 - 0.5 * residual @ residual)
  _, _, basis = np.linalg.svd(shared)
  return Problem(
    matrices=[jacobians.generic(6, 5, seed=8) / 4, *(r @ shared for r in sees)],
    targets=[np.linspace(-1, 2, 6), *targets],
    offsets=[0.3, *offsets],
    argmin=argmin,
    free=basis[2:].T,
    min_max=1.8,
  )


def one_is_worst():
  """Two modalities, four params; one of them is the worst at its very best.

  It cannot get below its offset, 2.5, which it has wherever A₂θ = b₂: one
  equation, so three directions are free until the other modality, far better,
  reaches 2.5 as well.
  """
  worst = jacobians.generic(1, 4, seed=2)
  argmin = np.array([0.2, 1.1, -0.7, 0.6])
  other = jacobians.generic(3, 4, seed=9) / 3
  _, _, basis = np.linalg.svd(worst)
  fused = jacobians.generic(5, 4, seed=7) / 3
  return Problem(
    matrices=[fused, other, worst],
    targets=[
      fused @ argmin + [0.5, -0.3, 0.8, 0.1, -0.6],
      other @ argmin + [0.02, -0.03, 0.05],
      worst @ argmin,
    ],
    offsets=[0.1, -1.0, 2.5],
    argmin=argmin,
    free=basis[1:].T,
    min_max=2.5,
  )


PROBLEMS = {'balanced': balanced(), 'one_is_worst': one_is_worst()}


@pytest.fixture(params=PROBLEMS)
def problem(request):
  """A problem of known solution; the test runs in float64."""
  with jax.enable_x64(True):
    yield PROBLEMS[request.param]


@pytest.mark.slow
def test_lexicographic_solution_is_what_it_is_said_to_be(problem):
  solution = problem.lexicographic()
  values = np.asarray(problem.values(solution))
  np.testing.assert_allclose(values[1:].max(), problem.min_max, rtol=1e-12)
  random = np.random.RandomState(5)
  look = jax.jit(problem.values)
  for step in random.normal(size=[100, len(solution)]):
    for length in (1e-3, 0.3, 4.0):
      assert look(solution + length * step)[1:].max() > problem.min_max
      within = problem.free @ problem.free.T @ step
      assert look(solution + length * within)[0] > values[0]
    near = look(solution + 1e-2 * within)[1:].max()
    np.testing.assert_allclose(near, problem.min_max, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('temperature', [1.0, 0.2])
def test_excess_of_the_modalities_is_bounded_by_the_fused_loss_over_the_penalty(
  problem, temperature
):
  best = np.asarray(problem.values(problem.lexicographic()))
  smooth = np.asarray(problem.values(problem.smooth_lexicographic(temperature)))
  modalities = len(best) - 1

  def h(losses):
    return float(smooth_max(losses[1:], temperature))

  point = problem.argmin + 0.3
  for penalty in (0.3, 4.0, 100.0):

    def objective(theta, penalty=penalty):
      return problem.objective(theta, penalty, temperature)

    point = minimiser(objective, point)
    values = np.asarray(problem.values(point))
    gap = h(values) - h(smooth)
    assert -1e-12 <= gap <= (smooth[0] - values[0]) / penalty + 1e-12
    assert values[1:].max() - problem.min_max <= (
      (best[0] - values[0]) / penalty
      + temperature * math.log(modalities)
      + 1e-12
    )


@pytest.mark.slow
def test_minimisers_approach_the_lexicographic_solution(problem):
  solution = problem.lexicographic()
  point, distances = problem.argmin + 0.3, []
  for penalty, temperature in [(1, 1), (10, 0.1), (100, 1e-2), (1e3, 1e-3)]:

    def objective(theta, penalty=penalty, temperature=temperature):
      return problem.objective(theta, penalty, temperature)

    point = minimiser(objective, point)
    distances.append(np.linalg.norm(point - solution))
  assert distances[0] > 0.05
  for one, following in itertools.pairwise(distances):
    assert following < one / 4
  assert distances[-1] < 1e-2


def lipschitz(problem, start, penalty, temperature):
  """A bound of ∇²Φ on {Φ ≤ Φ(start)}, which descent with 1/L never leaves.

  ∇²Φ = ∇²F₀ + λ (Σ π_m ∇²F_m + Cov_π(∇F_m) / μ). Where Φ ≤ Φ(start),
  max F_m ≤ h + μ log M ≤ (Φ(start) − min F₀)/λ + μ log M =: B, and so
  ‖∇F_m‖² ≤ ‖A_m‖² ‖A_m θ − b_m‖² ≤ 2 ‖A_m‖² (B − c_m), which bounds the
  covariance.
  """
  squares = [np.linalg.norm(matrix, 2) ** 2 for matrix in problem.matrices]
  bound = (
    problem.objective(start, penalty, temperature) - problem.offsets[0]
  ) / penalty + temperature * math.log(len(squares) - 1)
  steepest = max(
    2 * square * (bound - offset)
    for square, offset in zip(squares[1:], problem.offsets[1:], strict=True)
  )
  return float(
    squares[0] + penalty * (max(squares[1:]) + steepest / temperature)
  )


@pytest.mark.slow
@pytest.mark.parametrize(('penalty', 'temperature'), [(5.0, 0.5), (1.5, 0.05)])
def test_descent_has_the_rate_of_gradient_descent_on_a_smooth_objective(
  problem, penalty, temperature
):
  def objective(theta):
    return problem.objective(theta, penalty, temperature)

  start = jnp.asarray(problem.argmin + np.linspace(-0.7, 0.9, 4)[0])
  smoothness = lipschitz(problem, start, penalty, temperature)
  optimizer = optax.chain(
    mimo_jax.balance(mimo_jax.mimo(penalty, temperature)),
    optax.sgd(1 / smoothness),
  )

  def step(carry, _):
    theta, state = carry
    losses, pullback = jax.vjp(problem.losses, theta)
    updates, state = optimizer.update(pullback, state, theta, losses=losses)
    value, gradient = jax.value_and_grad(objective)(theta)
    following = optax.apply_updates(theta, updates)
    return (following, state), (value, gradient, updates)

  _, (values, gradients, updates) = jax.jit(
    lambda: jax.lax.scan(step, (start, optimizer.init(start)), length=2000)
  )()
  np.testing.assert_allclose(
    updates, -gradients / smoothness, rtol=1e-9, atol=1e-12 / smoothness
  )
  squares = np.sum(np.square(gradients), axis=1)
  # The descent lemma at every step, whose sum is the rate.
  falls = values[:-1] - values[1:]
  assert np.all(falls >= squares[:-1] / (2 * smoothness) - 1e-13)
  least = objective(minimiser(objective, problem.argmin + 0.1))
  steps = np.arange(1, 2001)
  allowed = 2 * smoothness * (values[0] - least) / steps
  assert np.all(np.minimum.accumulate(squares) <= allowed + 1e-13)
