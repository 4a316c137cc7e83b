"""Projecting conflicting gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers
from mimo_jax.weightings import _visits


class PCGradState(NamedTuple):
  """State of `pcgrad`."""

  key: jax.Array  # [], of the next step's random orders


def pcgrad(seed: int = 0) -> base.Weighting:
  """Projecting conflicting gradients (PCGrad).

  Each gradient loses the part that points against each of the others, one after
  the other, in a random order of its own. The direction is the sum of what is
  left:

      h ← gᵢ;   for j ≠ i:   h ← h − min(h·gⱼ, 0) gⱼ / ‖gⱼ‖²;   d = Σᵢ hᵢ

  The gⱼ are the original gradients. The rule works on `observation.gramian`
  alone, because h is kept as its coefficients. One projection may undo another,
  so that with three objectives or more d may still conflict. With two, the
  order does not matter, and the weights are 1, or 1 − G₁₂/Gᵢᵢ if the two
  conflict.

  One library also visits j = i: if the others have turned h against its own
  gradient, h loses that part, too. The paper does not.

  Properties: scale_invariant, linear_under_scaling.

  Args:
    seed: of the random orders, for three or more objectives.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.pcgrad()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [2.222, 1.579]

  References:
    T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman and C. Finn, `Gradient
    Surgery for Multi-Task Learning <https://arxiv.org/abs/2001.06782>`_,
    NeurIPS 2020, Algorithm 1.
  """
  _arguments.check('pcgrad', _arguments.whole(), seed=seed)

  def init(_: int) -> PCGradState:
    return PCGradState(key=_numerics.new_key(seed))

  def update(
    observation: base.Observation, state: PCGradState
  ) -> tuple[jax.Array, PCGradState]:
    size = observation.num_objectives
    # On unit vectors, so that lengths cannot underflow. A zero gradient is
    # orthogonal to all: it changes nothing and keeps its weight of one.
    form = solvers.cosine_form(observation.gramian)
    identity = jnp.eye(size, dtype=form.cosines.dtype)

    # Row i: hᵢ / ‖gᵢ‖ as coefficients of the unit vectors.
    def visit(coefficients: jax.Array, visited: jax.Array) -> jax.Array:
      along = jnp.sum(coefficients * form.cosines[visited], axis=1)
      is_own = visited == jnp.arange(size)
      removed = jnp.where(is_own, 0, jnp.minimum(along, 0))
      return coefficients - removed[:, None] * identity[visited]

    key, coefficients = _visits.in_random_orders(
      state.key, size, visit, identity
    )
    return _visits.total_weights(coefficients, form.lengths), PCGradState(key)

  return base.stateful(init, update, needs='gramian')
