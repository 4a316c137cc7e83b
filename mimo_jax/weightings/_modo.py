"""Multi-objective gradient with double sampling."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers


class MoDoState(NamedTuple):
  """State of `modo`."""

  shares: jax.Array  # [K], λ


def modo(
  step_size: _arguments.Scalar = 0.1, regularization: _arguments.Scalar = 0.1
) -> base.Weighting:
  """Multi-objective gradient with double sampling (MoDo).

  One step of projected gradient descent on the problem of MGDA at each step of
  training, without the bias of a Gramian that is made of one noisy batch:

      λ ← proj( λ − γ (J₁ J₂ᵀ λ + ρ λ) )   onto  λ ≥ 0, Σ λ = 1;   λ₀ = 1/K

  J₁ and J₂ are the Jacobians of two independent batches: `balance` takes the
  extra argument `independent_updates`. J₁ J₂ᵀ is `observation.cross_gramian`,
  and its mean JJᵀ; γ = `step_size`, ρ = `regularization`. The weights are the
  new λ, for the gradient of any batch: one of the two, or better a third, which
  costs one backward pass beside the 2K of the two Jacobians.

  γ and ρ are in units of the gradients' squared lengths. Other libraries begin
  with γ = 0.1 or 0.001.

  Properties: simplex.

  Args:
    step_size: γ ≥ 0. Larger: the weights follow the batches faster.
    regularization: ρ ≥ 0. Larger: closer to equal weights.

  Returns:
    A `mimo_jax.Weighting`; state carries the weights.

  Raises:
    ValueError: if step_size or regularization is negative or not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.modo(step_size=0.01)
    >>> first = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> second = jnp.array([[-3.0, 1.0, 0.0], [7.0, 1.0, 2.0]])
    >>> observation = mimo_jax.Observation(
    ...   jnp.ones(2), cross_gramian=first @ second.T
    ... )
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [0.6, 0.4]

  References:
    L. Chen et al., `Three-Way Trade-Off in Multi-Objective Learning:
    Optimization, Generalization and Conflict-Avoidance
    <https://arxiv.org/abs/2305.20057>`_, NeurIPS 2023, Algorithm 1.
  """
  for name, value in (
    ('step_size', step_size),
    ('regularization', regularization),
  ):
    _arguments.check_number(
      'modo', name, value, lambda value: 0 <= value < math.inf, 'at least 0'
    )

  def init(num_objectives: int, params: base.PyTree = None) -> MoDoState:
    del params
    dtype = jnp.result_type(float)
    return MoDoState(jnp.full(num_objectives, 1 / num_objectives, dtype))

  def update(
    observation: base.Observation, state: MoDoState
  ) -> tuple[jax.Array, MoDoState]:
    weights = state.shares
    along = jnp.sum(observation.cross_gramian * weights[None, :], axis=1)
    gradient = along + regularization * weights
    weights = solvers.simplex_projection(weights - step_size * gradient)
    return weights.astype(observation.losses.dtype), MoDoState(
      weights.astype(state.shares.dtype)
    )

  return base.stateful(
    init, update, needs='losses', extra_args=('independent_updates',)
  )
