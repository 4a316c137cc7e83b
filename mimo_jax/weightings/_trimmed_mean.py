"""Coordinate-wise trimmed mean."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def trimmed_mean(num_trimmed: int | None = None) -> base.Weighting:
  """Coordinate-wise trimmed mean.

  Each coordinate leaves out its b largest and its b smallest entries, and takes
  the mean of the others:

      a_ip = 1/(K − 2b)  if b ≤ rank of J_ip in column p < K − b,  else 0

  b = `num_trimmed`. The weights are shaped like `observation.jacobian`. Equal
  entries are ranked in the order of the objectives. b = 0 is the mean, and
  b = (K − 1)/2 the median. A zero gradient does not take part.

  Properties: scale_invariant, permutation_equivariant.

  Args:
    num_trimmed: b from 0 to (K − 1)/2. Larger: outliers matter less. None is 1,
      or 0 for fewer than three objectives, where nothing would be left.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.trimmed_mean(num_trimmed=1)
    >>> rows = jnp.array([[1.0, 2.0], [1.5, -8.0], [9.0, 7.0], [0.0, 3.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(4), jacobian=rows)
    >>> rule.update(observation, rule.init(4))[0].tolist()
    [[0.5, 0.5], [0.5, 0.0], [0.0, 0.0], [0.0, 0.5]]

  References:
    D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, `Byzantine-Robust
    Distributed Learning: Towards Optimal Statistical Rates
    <https://arxiv.org/abs/1803.01498>`_, ICML 2018.
  """
  if num_trimmed is not None:
    _arguments.check(
      'trimmed_mean', _arguments.whole(0), num_trimmed=num_trimmed
    )

  def weigh(observation: base.Observation) -> base.PyTree:
    size = observation.num_objectives
    trimmed = min(1, (size - 1) // 2) if num_trimmed is None else num_trimmed
    if size < 2 * trimmed + 1:
      raise ValueError(
        f'trimmed_mean was given num_trimmed={trimmed} for {size} objectives;'
        f' expected at least {2 * trimmed + 1} objectives.'
      )
    present = observation.present
    count = jnp.sum(present)
    # At most so many that one objective is left.
    each_side = jnp.minimum(trimmed, (count - 1) // 2)
    index = jnp.arange(size)
    is_earlier = index[None, :] < index[:, None]

    def weigh_leaf(leaf: jax.Array) -> jax.Array:
      one, other = leaf[:, None], leaf[None, :]
      tie = is_earlier.reshape(size, size, *[1] * (leaf.ndim - 1))
      # K² comparisons for each entry, in one pass, instead of a sort.
      is_before = (other < one) | ((other == one) & tie)
      is_rival = _numerics.for_each_row(present, leaf)[None]
      rank = jnp.sum(is_before & is_rival, axis=1)
      kept = (rank >= each_side) & (rank < count - each_side) & is_rival[0]
      return jnp.where(kept, 1 / (count - 2 * each_side), 0)

    return jax.tree.map(weigh_leaf, observation.jacobian)

  return base.stateless(weigh, needs='jacobian')
