"""Gradient vaccine."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax import solvers

# Steps of a loop in a row: fast for few objectives, quick to compile for many.
_UNROLLED = 8
_LARGEST_TARGET = 1 - 1e-6


class GradVacState(NamedTuple):
  """State of `gradvac`."""

  targets: jax.Array  # [K, K], T, running means of the cosines
  key: jax.Array  # [], of the next step's random orders


def gradvac(beta: _arguments.Scalar = 0.5, seed: int = 0) -> base.Weighting:
  """Gradient vaccine (GradVac).

  Like PCGrad, but with the cosines between objectives seen so far, in place of
  zero, as what two gradients should not fall below:

      h ← gᵢ;   for j ≠ i, in random order:
        φ = cos(h, gⱼ)
        if φ < Tᵢⱼ:   h ← h + ‖h‖ (Tᵢⱼ √(1−φ²) / √(1−Tᵢⱼ²) − φ) gⱼ / ‖gⱼ‖
        Tᵢⱼ ← (1−β) Tᵢⱼ + β φ
      d = Σᵢ hᵢ

  after which cos(h, gⱼ) is the Tᵢⱼ of before. β = `beta`; T starts at 0, so
  that the first step is that of PCGrad. On `observation.gramian` alone, for the
  gradient as a whole; `optax.partition` over `balance` makes groups of params
  with targets of their own.

  Other libraries add 1e-8 to the denominators, which stops it at small
  gradients. Here T is kept within ±(1 − 1e-6) instead,
  and cosines with a zero gradient count as 0, without a correction.

  Properties: scale_invariant, linear_under_scaling.

  Args:
    beta: β in [0, 1]. Larger: the targets follow the cosines faster. With 0
      they stay at 0, and the rule is PCGrad.
    seed: of the random orders, for three or more objectives.

  Returns:
    A `mimo_jax.Weighting`; state carries the targets and the random key.

  Raises:
    ValueError: if beta is not between 0 and 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.gradvac()
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> weights, state = rule.update(observation, rule.init(2))
    >>> weights.tolist(), state.targets[0].tolist()
    ([2.222, 1.579], [0.000, -0.421])

  References:
    Z. Wang et al., `Gradient Vaccine: Investigating and Improving Multi-task
    Optimization in Massively Multilingual Models
    <https://arxiv.org/abs/2010.05874>`_, ICLR 2021.
  """
  _arguments.check_number(
    'gradvac', 'beta', beta, lambda value: 0 <= value <= 1, 'in [0, 1]'
  )

  def init(num_objectives: int, params: base.PyTree = None) -> GradVacState:
    del params
    shape = (num_objectives, num_objectives)
    return GradVacState(
      targets=jnp.zeros(shape, jnp.result_type(float)),
      key=jax.random.key(seed),
    )

  def update(
    observation: base.Observation, state: GradVacState
  ) -> tuple[jax.Array, GradVacState]:
    size = observation.num_objectives
    key, order_key = jax.random.split(state.key)
    # Row i: the order in which objective i visits the others.
    orders = jnp.argsort(jax.random.uniform(order_key, (size, size)), axis=1)
    form = solvers.cosine_form(observation.gramian)
    dtype = form.cosines.dtype
    identity = jnp.eye(size, dtype=dtype)
    eps = jnp.finfo(dtype).eps

    # Row i of all three: hᵢ / ‖gᵢ‖ as coefficients of the unit vectors uⱼ, its
    # products with them, and the targets.
    def visit(
      carry: tuple[jax.Array, jax.Array, jax.Array], visited: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
      coefficients, products, targets = carry
      at_visited = identity[visited]
      along = jnp.sum(products * at_visited, axis=1)
      target = jnp.sum(targets * at_visited, axis=1)
      square = jnp.maximum(jnp.sum(coefficients * products, axis=1), 0)
      length = jnp.sqrt(square)
      # ‖h‖ √(1−φ²) is the length across uⱼ: nothing is divided by ‖h‖.
      across = jnp.sqrt(jnp.maximum(square - along**2, 0))
      added = target * across / jnp.sqrt(1 - target**2) - along
      # Targets near 1 that many objectives miss at once would overflow.
      added = jnp.minimum(added, 1 / eps)
      corrected = (
        (along < target * length)
        & (visited != jnp.arange(size))
        & ~form.is_zero
        & ~form.is_zero[visited]
      )
      added = jnp.where(corrected, added, 0)
      # Nothing but rounding is left of an h that others have cancelled.
      reach = jnp.sum(jnp.abs(coefficients), axis=1)
      is_nothing = square <= size * eps * reach**2
      cosine = jnp.where(
        is_nothing, 0, along / jnp.where(is_nothing, 1, length)
      )
      moved = targets + beta * (cosine[:, None] - targets)
      moved = jnp.clip(moved, -_LARGEST_TARGET, _LARGEST_TARGET)
      is_other = at_visited * (1 - identity) > 0
      return (
        coefficients + added[:, None] * at_visited,
        products + added[:, None] * form.cosines[visited],
        jnp.where(is_other, moved, targets).astype(dtype),
      ), None

    (coefficients, _, targets), _ = lax.scan(
      visit,
      (identity, form.cosines, state.targets.astype(dtype)),
      orders.T,
      unroll=min(size, _UNROLLED),
    )
    weights = (
      jnp.sum(form.lengths[:, None] * coefficients, axis=0) / form.lengths
    )
    targets = targets.astype(state.targets.dtype)
    return weights.astype(observation.losses.dtype), GradVacState(targets, key)

  return base.stateful(init, update, needs='gramian')
