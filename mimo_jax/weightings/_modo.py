"""Multi-objective gradient with double sampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax.weightings import _shares


class MoDoState(NamedTuple):
  """State of `modo`."""

  shares: jax.Array  # [K], λ


def modo(
  step_size: _arguments.Scalar = 0.1, regularization: _arguments.Scalar = 0.1
) -> base.Weighting:
  """Multi-objective gradient with double sampling (MoDo).

  Each step of training takes one step of projected gradient descent on the
  problem of MGDA, without the bias of a Gramian made of one noisy batch:

      λ ← proj( λ − γ (J₁ J₂ᵀ λ + ρ λ) )   onto  λ ≥ 0, Σ λ = 1;   λ₀ = 1/K

  J₁ and J₂ are the Jacobians of two independent batches, the extra argument
  `independent_updates` of `balance`. J₁ J₂ᵀ is `observation.cross_gramian`, and
  its expectation is JJᵀ; γ = `step_size`, ρ = `regularization`. The weights are
  the new λ, for the gradient of any batch: one of the two, or better a third,
  which costs one backward pass beside the 2K of the two Jacobians.

  γ and ρ are in units of the gradients' squared lengths. Other libraries begin
  with γ = 0.1 or 0.001.

  Properties: simplex.

  Args:
    step_size: γ ≥ 0. Larger: the weights follow the batches faster.
    regularization: ρ ≥ 0. Larger: closer to equal weights.

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
  _arguments.check(
    'modo',
    _arguments.at_least(0),
    step_size=step_size,
    regularization=regularization,
  )

  def init(num_objectives: int) -> MoDoState:
    return MoDoState(jnp.full(num_objectives, 1 / num_objectives, float))

  def update(
    observation: base.Observation, state: MoDoState
  ) -> tuple[jax.Array, MoDoState]:
    weights, shares = _shares.descended(
      state.shares,
      observation.cross_gramian,
      observation.present,
      step_size,
      regularization,
    )
    return weights, MoDoState(shares)

  return base.stateful(init, update, needs='cross_gramian')
