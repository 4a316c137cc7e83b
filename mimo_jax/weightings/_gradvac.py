"""Gradient vaccine."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers
from mimo_jax.weightings import _visits

_LARGEST_TARGET = 1 - 1e-6


class GradVacState(NamedTuple):
  """State of `gradvac`."""

  targets: jax.Array  # [K, K], T, running means of the cosines
  key: jax.Array  # [], of the next step's random orders


def gradvac(beta: _arguments.Scalar = 0.5, seed: int = 0) -> base.Weighting:
  """Gradient vaccine (GradVac).

  Like PCGrad, but the cosine of two gradients should not fall below a target,
  the running mean of their cosines so far, in place of zero:

      h ← gᵢ;   for j ≠ i, in random order:
        φ = cos(h, gⱼ)
        if φ < Tᵢⱼ:   h ← h + ‖h‖ (Tᵢⱼ √(1−φ²) / √(1−Tᵢⱼ²) − φ) gⱼ / ‖gⱼ‖
        Tᵢⱼ ← (1−β) Tᵢⱼ + β φ
      d = Σᵢ hᵢ

  After a correction, cos(h, gⱼ) is Tᵢⱼ before its update. β = `beta`; T starts
  at 0, so that the first step is that of PCGrad. The rule works on
  `observation.gramian` alone, for the gradient as a whole. With the `groups` of
  `balance`, each group of params has targets of its own.

  Other libraries add 1e-8 to the denominators, so that small gradients are not
  corrected. Here T is kept within ±(1 − 1e-6) instead. A zero gradient corrects
  no other and moves no T.

  Properties: scale_invariant, linear_under_scaling.

  Args:
    beta: β in [0, 1]. Larger: the targets follow the cosines faster. With 0
      they stay at 0, and the rule is PCGrad.
    seed: of the random orders, for three or more objectives.

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
  _arguments.check('gradvac', _arguments.between(0, 1), beta=beta)
  _arguments.check('gradvac', _arguments.whole(), seed=seed)

  def init(num_objectives: int) -> GradVacState:
    return GradVacState(
      targets=jnp.zeros((num_objectives, num_objectives)),
      key=_numerics.new_key(seed),
    )

  def update(
    observation: base.Observation, state: GradVacState
  ) -> tuple[jax.Array, GradVacState]:
    size = observation.num_objectives
    form = solvers.cosine_form(observation.gramian)
    dtype = form.cosines.dtype
    identity = jnp.eye(size, dtype=dtype)
    eps = jnp.finfo(dtype).eps

    # Row i of all three: hᵢ / ‖gᵢ‖ as coefficients of the unit vectors uⱼ, its
    # products with them, and the targets.
    def visit(
      carry: tuple[jax.Array, jax.Array, jax.Array], visited: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
      coefficients, products, targets = carry
      at_visited = identity[visited]
      along = jnp.sum(products * at_visited, axis=1)
      target = jnp.sum(targets * at_visited, axis=1)
      square = jnp.maximum(jnp.sum(coefficients * products, axis=1), 0)
      length = _numerics.root(square)
      # ‖h‖ √(1−φ²) is the length across uⱼ, so no division by ‖h‖ is needed.
      across = _numerics.root(square - along**2)
      added = target * across / jnp.sqrt(1 - target**2) - along
      # Else targets near 1, missed by many objectives at once, would overflow.
      added = jnp.minimum(added, 1 / eps)
      corrected = (
        (along < target * length)
        & (visited != jnp.arange(size))
        & ~form.is_zero
        & ~form.is_zero[visited]
      )
      added = jnp.where(corrected, added, 0)
      # If corrections have cancelled h, only rounding errors are left of it.
      reach = jnp.sum(jnp.abs(coefficients), axis=1)
      is_left = ~(square <= size * eps * reach**2)
      cosine = _numerics.divide(along, length, where=is_left)
      moved = targets + beta * (cosine[:, None] - targets)
      moved = jnp.clip(moved, -_LARGEST_TARGET, _LARGEST_TARGET)
      # A zero gradient has no cosine to learn from.
      seen = ~form.is_zero[:, None] & ~form.is_zero[visited][:, None]
      is_other = (at_visited * (1 - identity) > 0) & seen
      return (
        coefficients + added[:, None] * at_visited,
        products + added[:, None] * form.cosines[visited],
        jnp.where(is_other, moved, targets).astype(dtype),
      )

    key, (coefficients, _, targets) = _visits.in_random_orders(
      state.key,
      size,
      visit,
      (identity, form.cosines, state.targets.astype(dtype)),
    )
    weights = _visits.total_weights(coefficients, form.lengths)
    return weights, GradVacState(targets, key)

  return base.stateful(init, update, needs='gramian')
