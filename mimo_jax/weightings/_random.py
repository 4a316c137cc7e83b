"""Random weights."""

from typing import NamedTuple

import jax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


class RandomState(NamedTuple):
  """State of `random`."""

  key: jax.Array  # [] a typed key, that of the next draw


def random(seed: int = 0) -> base.Weighting:
  """Random loss weighting (RLW).

  New weights at every step, whatever the losses are:

      w = softmax(z),   z ~ N(0, I)

  w_i > 0, Σ w_i = 1, and the mean of each is 1/K. This is a control: a rule
  that looks at losses or gradients has to beat it. The authors try other
  distributions as well; this is the one in use elsewhere.

  Properties: simplex, linear_under_scaling, loss_scale_free.

  Args:
    seed: whole number that all draws follow from.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.random(seed=1)
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7, 0.9]))
    >>> weights, state = rule.update(observation, rule.init(3))
    >>> another, state = rule.update(observation, state)
    >>> float(weights.sum()), float(another.sum())
    (1.0, 1.0)
    >>> bool((weights == another).any())
    False

  References:
    B. Lin, F. Ye, Y. Zhang and I. W. Tsang, `Reasonable Effectiveness of Random
    Weighting: A Litmus Test for Multi-Task Learning
    <https://arxiv.org/abs/2111.10603>`_, TMLR 2022.
  """
  _arguments.check('random', _arguments.whole(), seed=seed)

  def init(_: int) -> RandomState:
    return RandomState(key=_numerics.new_key(seed))

  def update(
    observation: base.Observation, state: RandomState
  ) -> tuple[jax.Array, RandomState]:
    losses = observation.losses
    key, (draw,) = _numerics.split_key(state.key)
    scores = jax.random.normal(draw, losses.shape, losses.dtype)
    shares = jax.nn.softmax(scores, where=observation.has_rows)
    return shares, RandomState(key)

  return base.stateful(init, update, needs='losses')
