"""Weights of a fixed sum."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def normalized(
  weighting: base.Weighting, total: _arguments.Scalar = 1.0
) -> base.Weighting:
  """The weights of another rule, scaled to a fixed sum.

  With w the weights of `weighting`, those of this rule are

      a = t w / Σᵢ |wᵢ|                          (0 if all w are 0)

  t = `total`. The direction is that of `weighting`, and its length no longer a
  matter of the rule: `sum` has K times the step of `mean`, `mimo` 1 + λ times,
  `nash_mtl` one that grows as the gradients shrink. So rules can be compared at
  one learning rate. The sum is that of sizes, by which a rule with negative
  weights never turns around; of other rules it is the sum itself.

  Of weights at every coordinate, w is their mean for each objective, and of a
  rule that remembers gradients the weights that it tells: one factor for all.

  Lengths of the gradients are left as they are; `mimo_jax.unit_gradients` is
  about those. With both, `normalized` is the outer one.

  Args:
    weighting: any rule.
    total: t > 0. `balance` with the mean of losses has 1, with their sum K.

  Returns:
    A `mimo_jax.Weighting` with the needs and the state of `weighting`.

  Raises:
    ValueError: if `weighting` is none, or total not positive and finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.normalized(mimo_jax.mimo(penalty=3.0), total=2.0)
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7, 0.7]))
    >>> rule.update(observation, rule.init(3))[0].tolist()
    [0.5, 0.75, 0.75]
  """
  base.check_weighting('normalized', weighting)
  _arguments.check('normalized', _arguments.finite_above(0), total=total)

  def update(
    observation: base.Observation, state: base.PyTree
  ) -> tuple[base.PyTree, base.PyTree]:
    weights, state = weighting.update(observation, state)
    sizes = jnp.abs(base.for_each_objective(weights))
    # By the largest first: a sum of sizes near the largest float is infinite.
    largest = _numerics.nonzero(jnp.max(sizes))
    factor = total / _numerics.nonzero(jnp.sum(sizes / largest))

    def scale(leaf: jax.Array) -> jax.Array:
      return (leaf / largest * factor).astype(leaf.dtype)

    return jax.tree.map(scale, weights), state

  return weighting._replace(update=update)
