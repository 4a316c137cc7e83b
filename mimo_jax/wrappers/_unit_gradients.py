"""Gradients of unit length, before a rule sees them."""

import jax
import jax.numpy as jnp

from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import solvers


def unit_gradients(weighting: base.Weighting) -> base.Weighting:
  """Another rule, for gradients that are scaled to unit length first.

  The rule sees U = diag(n)⁻¹ J in place of the Jacobian, with n the lengths of
  the gradients. Its direction is made of U, too. With w its weights,

      d = wᵀU = aᵀJ,   aᵢ = wᵢ / nᵢ              (0 if nᵢ = 0)

  So an objective with a long gradient, or in a large unit, counts no more than
  another: for a rule that looks at gradients alone, positive factors of the
  losses change nothing. The shortest gradient dominates `mgda`, the longest one
  `sum`; here neither does. The length of d does not go to zero with those of
  the gradients, so the learning rate must.

  Rules that read losses read them as they are.

  Args:
    weighting: a rule for the losses, the Gramian or the Jacobian. A rule for
      the losses then needs the Gramian for the lengths, K backward passes.

  Returns:
    A `mimo_jax.Weighting` with the state of `weighting`.

  Raises:
    ValueError: if `weighting` is no rule, or needs several batches, whose
      J₁ J₂ᵀ has no lengths of gradients.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.unit_gradients(mimo_jax.weightings.mgda())
    >>> rows = jnp.array([[0.0, 2.0], [3.0, 4.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> weights, _ = rule.update(observation, rule.init(2))
    >>> weights.tolist(), (weights @ rows).tolist()
    ([0.25, 0.1], [0.3, 0.9])
  """
  needs = base.and_gramian('unit_gradients', weighting)

  def update(
    observation: base.Observation, state: base.PyTree
  ) -> tuple[base.PyTree, base.PyTree]:
    form = solvers.cosine_form(observation.gramian)
    present = ~form.is_zero
    inverse = _numerics.divide(
      1 / form.lengths, form.longest, where=present
    ).astype(observation.losses.dtype)
    both = present[:, None] & present[None, :]
    units = jnp.where(both, form.cosines, 0)

    def times_inverse(leaf: jax.Array) -> jax.Array:
      leaf = _numerics.at_least_float32(leaf)
      return _numerics.for_each_row(inverse.astype(leaf.dtype), leaf) * leaf

    weights, state = weighting.update(
      observation._replace(
        gramian=units,
        jacobian=jax.tree.map(times_inverse, observation.jacobian),
      ),
      state,
    )
    if isinstance(weights, base.Direction):  # made of the unit gradients
      weights = weights._replace(weights=times_inverse(weights.weights))
    else:
      weights = jax.tree.map(times_inverse, weights)
    return weights, state

  return weighting._replace(update=update, needs=needs)
