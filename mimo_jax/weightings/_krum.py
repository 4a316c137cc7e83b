"""Krum and Multi-Krum."""

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


def krum(num_byzantine: int = 0, num_selected: int = 1) -> base.Weighting:
  """Krum, and Multi-Krum.

  The rule selects the gradients that lie closest to their nearest neighbours,
  so that up to f wrong ones, however wrong, change little:

      sᵢ = Σ ‖gᵢ − gⱼ‖²  over the K − f − 2 nearest j ≠ i
      aᵢ = 1/m  for the m smallest sᵢ, and 0 for the others

  f = `num_byzantine`, m = `num_selected`. Equal scores are taken in the order
  of the objectives, the primary one first. With f = 0 and fewer than three
  objectives sᵢ is the distance to the other. A zero gradient does not take
  part.

  Distances are squared, as in the paper; TorchJD sums the distances themselves,
  which may select others. They come from `observation.gramian`: rows that
  differ by less than the root of its precision (3e-4 of their length in
  float32) count as equal.

  Properties: simplex, scale_invariant.

  Args:
    num_byzantine: f ≥ 0, the number of gradients that may be wrong. Larger:
      fewer neighbours count. If not 0, K must be at least f + 3.
    num_selected: m from 1 to K. Larger: closer to the mean of the gradients.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.krum(num_selected=2)
    >>> rows = jnp.array([[1.0, 2.0], [1.5, 2.0], [-9.0, 7.0], [1.0, 3.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(4), rows @ rows.T)
    >>> rule.update(observation, rule.init(4))[0].tolist()
    [0.5, 0.5, 0.0, 0.0]

  References:
    P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer, `Machine
    Learning with Adversaries: Byzantine Tolerant Gradient Descent
    <https://papers.nips.cc/paper/2017/hash/f4b9ec30ad9f68f89b29639786cb62ef-Abstract.html>`_,
    NeurIPS 2017.
  """
  _arguments.check('krum', _arguments.whole(0), num_byzantine=num_byzantine)
  _arguments.check('krum', _arguments.whole(1), num_selected=num_selected)

  def weigh(observation: base.Observation) -> jax.Array:
    size = observation.num_objectives
    if num_byzantine > 0 and size < num_byzantine + 3:
      raise ValueError(
        f'krum was given num_byzantine={num_byzantine} for {size} objectives;'
        f' expected at least {num_byzantine + 3} objectives.'
      )
    if num_selected > size:
      raise ValueError(
        f'krum was given num_selected={num_selected} for {size} objectives;'
        ' expected no more than there are.'
      )
    present = observation.present
    count = jnp.sum(present)
    num_neighbours = jnp.maximum(count - num_byzantine - 2, 1)
    gramian = observation.gramian
    # Scale by the largest entry: otherwise sums of squares would overflow.
    scaled = gramian / _numerics.nonzero(jnp.max(jnp.diagonal(gramian)))
    squares = jnp.diagonal(scaled)
    # Exactly symmetric, so that ties stay ties; values below 0 are rounding.
    distances = jnp.maximum(
      squares[:, None] + squares[None, :] - (scaled + scaled.T), 0
    )
    index = jnp.arange(size)
    is_other = present[:, None] & present[None, :] & ~jnp.eye(size, dtype=bool)
    distances = jnp.where(is_other, distances, jnp.inf)
    # A single objective has no neighbours, and there is no choice.
    nearest = jnp.sort(distances, axis=1)
    is_near = index < jnp.minimum(num_neighbours, count - 1)
    scores = jnp.sum(jnp.where(is_near[None, :], nearest, 0), axis=1)
    scores = jnp.where(present, scores, jnp.inf)
    is_before = (scores[None, :] < scores[:, None]) | (
      (scores[None, :] == scores[:, None]) & (index[None, :] < index[:, None])
    )
    # Absent objectives come last.
    num = jnp.minimum(num_selected, count)
    selected = jnp.sum(is_before, axis=1) < num
    return jnp.where(selected, 1 / num, 0)

  return base.stateless(weigh, needs='gramian')
