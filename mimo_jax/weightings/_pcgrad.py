"""Projecting conflicting gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import base
from mimo_jax import solvers

# Steps of a loop in a row: fast for few objectives, quick to compile for many.
_UNROLLED = 8


class PCGradState(NamedTuple):
  """State of `pcgrad`."""

  key: jax.Array  # [], of the next step's random orders


def pcgrad(seed: int = 0) -> base.Weighting:
  """Projecting conflicting gradients (PCGrad).

  Each gradient loses what points against the others, one after the other in a
  random order of its own, and the sum of what is left is the direction:

      h ← gᵢ;   for j ≠ i:   h ← h − min(h·gⱼ, 0) gⱼ / ‖gⱼ‖²;   d = Σᵢ hᵢ

  The gⱼ are the original gradients. On `observation.gramian` alone: h is kept
  as its coefficients. What one projection gains another may lose again, so from
  three objectives on d may still conflict. For two the order is of no
  consequence, and the weights are 1, or 1 − G₁₂/Gᵢᵢ if the two conflict.

  One library visits j = i, too, where an h turned against its own gradient by
  the others loses that as well; the paper does not.

  Properties: scale_invariant, linear_under_scaling.

  Args:
    seed: of the random orders, for three or more objectives.

  Returns:
    A `mimo_jax.Weighting`; state carries the random key.

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

  def init(num_objectives: int, params: base.PyTree = None) -> PCGradState:
    del num_objectives, params
    return PCGradState(key=jax.random.key(seed))

  def update(
    observation: base.Observation, state: PCGradState
  ) -> tuple[jax.Array, PCGradState]:
    size = observation.num_objectives
    key, order_key = jax.random.split(state.key)
    # Row i: the order in which objective i visits the others.
    orders = jnp.argsort(jax.random.uniform(order_key, (size, size)), axis=1)
    # On unit vectors, where the lengths cannot underflow. A zero gradient is
    # orthogonal to all: it changes nothing and keeps its weight of one.
    form = solvers.cosine_form(observation.gramian)
    identity = jnp.eye(size, dtype=form.cosines.dtype)

    def visit(
      coefficients: jax.Array, visited: jax.Array
    ) -> tuple[jax.Array, None]:
      along = jnp.sum(coefficients * form.cosines[visited], axis=1)
      is_own = visited == jnp.arange(size)
      removed = jnp.where(is_own, 0, jnp.minimum(along, 0))
      return coefficients - removed[:, None] * identity[visited], None

    # Row i: hᵢ / ‖gᵢ‖ as coefficients of the unit vectors.
    coefficients, _ = lax.scan(
      visit, identity, orders.T, unroll=min(size, _UNROLLED)
    )
    weights = (
      jnp.sum(form.lengths[:, None] * coefficients, axis=0) / form.lengths
    )
    return weights.astype(observation.losses.dtype), PCGradState(key)

  return base.stateful(init, update, needs='gramian')
