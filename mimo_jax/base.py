"""The two nouns of the library: what a weighting sees, and what it is."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax

PyTree: TypeAlias = Any
Needs: TypeAlias = Literal['losses', 'gramian', 'jacobian']


class Observation(NamedTuple):
  """What a weighting sees at one step; the primary objective comes first.

  A weighting reads no more than it declared in `Weighting.needs`; what it did
  not ask for is None.
  """

  losses: jax.Array  # [K], float32 or wider
  gramian: jax.Array | None = None  # [K, K], J Jᵀ, float32 or wider
  jacobian: PyTree | None = None  # J: one leaf a parameter, [K, *shape]

  @property
  def num_objectives(self) -> int:
    """The number of objectives, K."""
    return self.losses.shape[0]


class Weighting(NamedTuple):
  """A rule that turns an observation into one weight for each objective.

  `weights` is `[K]`, or shaped like the Jacobian for rules that weigh every
  coordinate on its own. The combined gradient is `weightsᵀ J`.

  Attributes:
    init: `init(num_objectives) -> state`. State whose shapes depend on
      `num_objectives` makes `mimo_jax.balance` ask for `objectives`.
    update: `update(observation, state) -> (weights, state)`, a pure function.
    needs: the most expensive thing that `update` reads: 'losses', 'gramian'
      or 'jacobian', each including the one before. A rule that needs losses
      only costs one backward pass; the others cost K.

  Examples:
    A rule of one's own, twice as much weight on the primary objective:

    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> def weigh(observation):
    ...   return jnp.ones_like(observation.losses).at[0].set(2.0)
    >>> rule = mimo_jax.stateless(weigh, needs='losses')
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.3, 0.7, 0.9]))
    >>> weights, state = rule.update(observation, rule.init(3))
    >>> weights.tolist()
    [2.0, 1.0, 1.0]
  """

  init: Callable[[int], PyTree]
  update: Callable[[Observation, PyTree], tuple[PyTree, PyTree]]
  needs: Needs


class StatelessState(NamedTuple):
  """State of a weighting that remembers nothing."""


def stateless(
  weigh: Callable[[Observation], PyTree], *, needs: Needs
) -> Weighting:
  """Makes a weighting of a function `weigh(observation) -> weights`.

  Args:
    weigh: pure function from an `Observation` to weights `[K]`.
    needs: what `weigh` reads: 'losses', 'gramian' or 'jacobian'.

  Returns:
    A `mimo_jax.Weighting`; stateless. `Weighting` has an example.
  """

  def init(num_objectives: int) -> StatelessState:
    del num_objectives
    return StatelessState()

  def update(
    observation: Observation, state: StatelessState
  ) -> tuple[PyTree, StatelessState]:
    if getattr(observation, needs) is None:
      raise ValueError(
        f'This weighting needs the {needs}; the observation has'
        f' {needs}=None. `mimo_jax.balance` gives what `Weighting.needs` says.'
      )
    return weigh(observation), state

  return Weighting(init, update, needs)
