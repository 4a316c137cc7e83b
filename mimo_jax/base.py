"""The two nouns of the library: what a weighting sees, and what it is."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax

PyTree: TypeAlias = Any
Needs: TypeAlias = Literal['losses', 'gramian', 'jacobian']
# An array, or None where nobody asked for it. `stateless` and `stateful` check
# that it is there, so that no rule has to.
Optional: TypeAlias = Any
ExtraArg: TypeAlias = Literal['independent_updates', 'losses_after']

_FIELD_OF_EXTRA_ARG: dict[str, str] = {
  'independent_updates': 'cross_gramian',
  'losses_after': 'losses_after',
}


class Observation(NamedTuple):
  """What a weighting sees at one step; the primary objective comes first.

  A weighting reads no more than it declared in `Weighting.needs` and
  `Weighting.extra_args`; what it did not ask for is None.
  """

  losses: jax.Array  # [K], float32 or wider
  gramian: Optional = None  # [K, K], J Jᵀ, float32 or wider
  jacobian: PyTree = None  # J: one leaf a parameter, [K, *shape]
  # [K, K], J₁ J₂ᵀ of two batches that are independent of each other
  cross_gramian: Optional = None
  # [K], of the batch of the step before, at the params it led to
  losses_after: Optional = None

  @property
  def num_objectives(self) -> int:
    """The number of objectives, K."""
    return self.losses.shape[0]


class Direction(NamedTuple):
  """A combined gradient that is no weighting of today's gradients.

  For rules that remember gradients: what they return in place of weights.
  """

  updates: PyTree  # like params
  weights: jax.Array  # [K], for the log


class Weighting(NamedTuple):
  """A rule that turns an observation into one weight for each objective.

  `weights` is `[K]`; or shaped like the Jacobian, for rules that weigh every
  coordinate on its own; or a `mimo_jax.Direction`, for rules that remember
  gradients. The combined gradient is `weightsᵀ J`, or that direction.

  Attributes:
    init: `init(num_objectives, params=None) -> state`; `params` gives shapes to
      rules that remember gradients. State whose shapes depend on
      `num_objectives` makes `mimo_jax.balance` ask for `objectives`.
    update: `update(observation, state) -> (weights, state)`, a pure function.
    needs: the most expensive thing that `update` reads: 'losses', 'gramian'
      or 'jacobian', each including the one before. A rule that needs losses
      only costs one backward pass; the others cost K.
    extra_args: the extra arguments that `balance`'s `update` must be given for
      this rule: 'independent_updates' fills `Observation.cross_gramian`,
      'losses_after' the field of that name.

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

  init: Callable[..., PyTree]
  update: Callable[[Observation, PyTree], tuple[PyTree, PyTree]]
  needs: Needs
  extra_args: tuple[ExtraArg, ...] = ()


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

  def init(num_objectives: int, params: PyTree = None) -> StatelessState:
    del num_objectives, params
    return StatelessState()

  def update(
    observation: Observation, state: StatelessState
  ) -> tuple[PyTree, StatelessState]:
    return weigh(observation), state

  return stateful(init, update, needs=needs)


def stateful(
  init: Callable[..., PyTree],
  update: Callable[[Observation, PyTree], tuple[PyTree, PyTree]],
  *,
  needs: Needs,
  extra_args: tuple[ExtraArg, ...] = (),
) -> Weighting:
  """A `Weighting` whose `update` says what is missing from an observation.

  Args:
    init: `init(num_objectives, params=None) -> state`.
    update: `update(observation, state) -> (weights, state)`.
    needs: what `update` reads: 'losses', 'gramian' or 'jacobian'.
    extra_args: the extra arguments of `balance`'s `update` that it reads.

  Returns:
    A `mimo_jax.Weighting`.

  Examples:
    Weights proportional to a running mean of the losses:

    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> def init(num_objectives, params=None):
    ...   return jnp.ones(num_objectives)
    >>> def update(observation, mean):
    ...   mean = 0.9 * mean + 0.1 * observation.losses
    ...   return mean / jnp.sum(mean), mean
    >>> rule = mimo_jax.stateful(init, update, needs='losses')
    >>> observation = mimo_jax.Observation(losses=jnp.array([3.0, 1.0]))
    >>> weights, state = rule.update(observation, rule.init(2))
    >>> weights.tolist(), state.tolist()
    ([0.545, 0.455], [1.2, 1.0])
  """

  def checked_update(
    observation: Observation, state: PyTree
  ) -> tuple[PyTree, PyTree]:
    if getattr(observation, needs) is None:
      raise ValueError(
        f'This weighting needs the {needs}; the observation has'
        f' {needs}=None. `mimo_jax.balance` gives what `Weighting.needs` says.'
      )
    for argument in extra_args:
      field = _FIELD_OF_EXTRA_ARG[argument]
      if getattr(observation, field) is None:
        raise ValueError(
          f'This weighting needs the observation to have {field}, which is'
          f' None. `mimo_jax.balance` makes it of its extra argument'
          f' {argument!r}.'
        )
    return update(observation, state)

  return Weighting(init, checked_update, needs, extra_args)
