"""MIMO: the lexicographic problem that it solves, and its rates."""

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
from tests.mimo_jax.weightings.penalised import penalised
from tests.mimo_jax.weightings.penalised import smooth_max


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
    """Minimises F₀ over theta + span(free), by least squares."""
    residual = self.targets[0] - self.matrices[0] @ theta
    along, *_ = np.linalg.lstsq(self.matrices[0] @ free, residual)
    return theta + free @ along

  def lexicographic(self):
    return self.best_fused(self.argmin, self.free)

  def smooth_lexicographic(self, temperature):
    """Minimises F₀ over argmin h, the smooth max.

    h is strictly convex in the directions of θ that some modality sees, and
    constant in those that none sees.
    """
    stacked = np.concatenate(self.matrices[1:])
    rank = np.linalg.matrix_rank(stacked)
    _, _, basis = np.linalg.svd(stacked)
    seen, unseen = basis[:rank].T, basis[rank:].T

    def smooth(along):
      theta = self.argmin + seen @ along
      return smooth_max(self.values(theta)[1:], temperature)

    # The point at which all modalities are optimal at once, if there is one.
    start, *_ = np.linalg.lstsq(
      stacked @ seen,
      np.concatenate(self.targets[1:]) - stacked @ self.argmin,
    )
    along = minimiser_of(smooth)(start)
    return self.best_fused(self.argmin + seen @ along, unseen)


def minimiser_of(function):
  """Minimises a convex function of θ and numbers, for each of the numbers.

  It begins with scipy's trust region, and ends with Newton's steps.
  """
  of = jax.jit(lambda *at: [f(*at) for f in (function, *derivatives)])
  derivatives = jax.grad(function), jax.hessian(function)

  def minimiser(start, *numbers):
    def at(point):
      return [np.asarray(each) for each in of(point, *numbers)]

    point = scipy.optimize.minimize(
      lambda x: at(x)[0],
      start,
      jac=lambda x: at(x)[1],
      hess=lambda x: at(x)[2],
      method='trust-exact',
      options={'gtol': 1e-7, 'maxiter': 5000},
    ).x
    _, gradient, hessian = at(point)
    for _ in range(5):
      following = point - np.linalg.solve(hessian, gradient)
      _, *there = at(following)
      if np.linalg.norm(there[0]) < np.linalg.norm(gradient):
        point, (gradient, hessian) = following, there
    # ‖x − x*‖ ≤ ‖∇‖ / m, where m is the strong convexity near x.
    assert np.linalg.norm(np.linalg.solve(hessian, gradient)) <= 1e-9 * (
      1 + np.linalg.norm(point)
    )
    return point

  return minimiser


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
  """Two modalities, four params; one is the worst even at its optimum.

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
  """A problem with a known solution; the test runs in float64."""
  with jax.enable_x64(True):
    yield PROBLEMS[request.param]


@pytest.mark.slow
def test_the_lexicographic_solution_is_the_documented_one(problem):
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

  minimiser, point = minimiser_of(problem.objective), problem.argmin + 0.3
  for penalty in (0.3, 4.0, 100.0):
    point = minimiser(point, penalty, temperature)
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
  minimiser, point = minimiser_of(problem.objective), problem.argmin + 0.3
  distances = []
  for penalty, temperature in [(1, 1), (10, 0.1), (100, 1e-2), (1e3, 1e-3)]:
    point = minimiser(point, float(penalty), float(temperature))
    distances.append(np.linalg.norm(point - solution))
  assert distances[0] > 0.05
  for one, following in itertools.pairwise(distances):
    assert following < one / 4
  assert distances[-1] < 1e-2


def lipschitz(problem, start, penalty, temperature):
  """Bounds ∇²Φ on {Φ ≤ Φ(start)}, which descent with 1/L never leaves.

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
  # The descent lemma at every step; its sum gives the rate.
  falls = values[:-1] - values[1:]
  assert np.all(falls >= squares[:-1] / (2 * smoothness) - 1e-13)
  least = objective(minimiser_of(objective)(problem.argmin + 0.1))
  steps = np.arange(1, 2001)
  allowed = 2 * smoothness * (values[0] - least) / steps
  assert np.all(np.minimum.accumulate(squares) <= allowed + 1e-13)
