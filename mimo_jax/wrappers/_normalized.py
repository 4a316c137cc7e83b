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

  t = `total`. The direction is that of `weighting`, but its size no longer
  depends on the rule, so that you can compare rules at one learning rate.
  Without `normalized`, `sum` takes K times the step of `mean`, `mimo` 1 + λ
  times, and the weights of `nash_mtl` grow as the gradients shrink. The sum is
  over absolute values, so that a rule with negative weights never turns around.

  For rules with a weight at every coordinate, w is the mean of these for each
  objective. For rules that remember gradients, w are the weights that they put
  into the state. In both cases there is one factor for all weights.

  The lengths of the gradients stay as they are; `mimo_jax.unit_gradients`
  changes those. If you use both, `normalized` is the outer one.

  Args:
    weighting: any rule.
    total: t > 0. It is 1 for the mean of the losses, and K for their sum.

  Returns:
    A `mimo_jax.Weighting` with the needs and the state of `weighting`.

  Raises:
    ValueError: if `weighting` is no rule, or `total` is not positive and
      finite.

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
    # Scale by the largest: a sum of sizes near the largest float overflows.
    largest = _numerics.nonzero(jnp.max(sizes))
    factor = total / _numerics.nonzero(jnp.sum(sizes / largest))

    def scale(leaf: jax.Array) -> jax.Array:
      return (leaf / largest * factor).astype(leaf.dtype)

    return jax.tree.map(scale, weights), state

  return weighting._replace(update=update)
