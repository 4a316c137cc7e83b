"""Smooth Tchebycheff scalarization."""

import jax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def stch(
  temperature: _arguments.Scalar = 1.0,
  preference: _arguments.Vector | None = None,
  ideal: _arguments.Scalar | _arguments.Vector = 0.0,
) -> base.Weighting:
  """Smooth Tchebycheff scalarization (STCH).

  The gradient of a smooth maximum of the losses. Its minimiser is Pareto
  optimal, and every Pareto-optimal point is its minimiser for some p:

      S = μ log Σ exp( p_i (L_i - z_i) / μ )
      w_i = ∂S/∂L_i = p_i softmax(p (L - z) / μ)_i

  μ = `temperature`, p = `preference`, z = `ideal`. S lies between
  max p_i (L_i - z_i) and μ log K above it: μ → 0 leaves p_i on the worst
  objective alone, μ → ∞ gives p_i / K to each.

  μ is in units of p_i L_i, which are those of L_i / K with the default p.
  LibMTL uses another rule, which is not offered here: logarithms of losses,
  divided by their means in the last of some warm-up epochs.

  Properties: permutation_equivariant, linear_under_scaling.

  Args:
    temperature: μ > 0. Larger: more even weights.
    preference: p ≥ 0, K numbers, that of the primary objective first; by
      default 1/K each. Larger: this objective matters more. Not normalised.
    ideal: z, the losses to compare with, one number or K of them.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.stch(temperature=0.5)
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7, 2.0]))
    >>> rule.update(observation, rule.init(3))[0].tolist()
    [0.062, 0.081, 0.191]

  References:
    X. Lin et al., `Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization <https://arxiv.org/abs/2402.19078>`_, ICML 2024.
  """
  _arguments.check('stch', _arguments.above(0), temperature=temperature)
  _arguments.check_preference('stch', preference)
  _arguments.check('stch', _arguments.each(_arguments.finite()), ideal=ideal)

  def weigh(observation: base.Observation) -> jax.Array:
    losses = observation.losses
    p = _arguments.preference_of('stch', preference, losses)
    z = _arguments.for_each_objective('stch', 'ideal', ideal, losses)
    shares = _numerics.softmax(
      p * (losses - z), temperature, where=observation.has_rows
    )
    return p * shares

  return base.stateless(weigh, needs='losses')
