"""Correlation-reduced multi-objective gradient manipulation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers


class CRMOGMState(NamedTuple):
  """State of `cr_mogm`."""

  mean: jax.Array  # [K], λ
  step: jax.Array  # [] int32, steps taken
  weighting: base.PyTree  # the state of the rule inside


def cr_mogm(
  weighting: base.Weighting | None = None,
  decay: _numerics.ScalarOrSchedule = 0.9,
) -> base.Weighting:
  """Correlation-reduced multi-objective gradient manipulation (CR-MOGM).

  A running mean of another rule's weights. Weights are correlated with the
  noise of the gradients that they are made of and multiply; the mean is less
  so:

      λ₁ = w₁,   λ_t = ρ_t λ_{t−1} + (1 − ρ_t) w_t

  w = the weights of `weighting`, ρ = `decay`. The paper lets ρ grow to 1 as the
  learning rate decays; use a schedule for that.

  Properties: simplex, permutation_equivariant, scale_invariant.

  Args:
    weighting: a rule whose weights are [K]. None is MGDA, the shortest vector
      in the convex hull of the gradients. The properties above hold with MGDA.
    decay: ρ in [0, 1], or a schedule `step -> ρ`. Larger: a longer mean. 0 is
      the rule itself, and 1 keeps its first weights.

  Returns:
    A `mimo_jax.Weighting` that needs what `weighting` needs; state carries the
    mean, the number of steps taken and the state of `weighting`.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.cr_mogm(decay=0.5)
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> state = rule.init(2)
    >>> for rows in (rows, rows[::-1]):
    ...   observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    ...   weights, state = rule.update(observation, state)
    ...   print(weights.tolist())
    [0.6, 0.4]
    [0.5, 0.5]

  References:
    S. Zhou et al., `On the Convergence of Stochastic Multi-Objective Gradient
    Manipulation and Beyond
    <https://papers.nips.cc/paper_files/paper/2022/hash/f91bd64a3620aad8e70a27ad9cb3ca57-Abstract-Conference.html>`_,
    NeurIPS 2022.
  """
  _arguments.check(
    'cr_mogm', _arguments.or_schedule(_arguments.between(0, 1)), decay=decay
  )
  rule = _min_norm() if weighting is None else weighting
  base.check_weighting('cr_mogm', rule)

  def init(num_objectives: int, params: base.PyTree) -> CRMOGMState:
    return CRMOGMState(
      mean=jnp.zeros(num_objectives),
      step=jnp.zeros((), jnp.int32),
      weighting=rule.init(num_objectives, params),
    )

  def update(
    observation: base.Observation, state: CRMOGMState
  ) -> tuple[jax.Array, CRMOGMState]:
    weights, rule_state = rule.update(observation, state.weighting)
    shape = getattr(weights, 'shape', None)
    if shape != (observation.num_objectives,):
      raise ValueError(
        'cr_mogm was given a weighting that returns'
        f' {type(weights).__name__} of shape {shape}; expected weights of shape'
        f' ({observation.num_objectives},), one for each objective.'
      )
    share = _numerics.value_at(decay, state.step)
    share = jnp.where(state.step == 0, 0, share)
    # An absent objective keeps its part of the mean. Until it is back, the
    # others share its weight, so that the sum is that of the rule's weights.
    present, total = observation.present, jnp.sum(weights)
    old = jnp.where(state.step == 0, total / len(weights), state.mean)
    left = jnp.sum(jnp.where(present, old, 0)) / total
    is_part = ~jnp.all(present) & (left > 0) & (left < jnp.inf)
    left = jnp.where(is_part, left, 1)
    mean = share * (old / left) + (1 - share) * weights
    return mean, CRMOGMState(
      _numerics.keep_rows(present, left * mean, old),
      optax.safe_increment(state.step),
      rule_state,
    )

  return base.stateful(
    init, update, needs=rule.needs, has_primary=rule.has_primary
  )


def _min_norm() -> base.Weighting:
  return base.stateless(
    lambda observation: solvers.min_norm(
      observation.gramian, drop_zero_rows=True
    ),
    needs='gramian',
  )
