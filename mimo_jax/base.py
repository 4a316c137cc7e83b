"""What a weighting sees, and what a weighting is."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mimo_jax import _numerics

PyTree: TypeAlias = Any
# The fields of an observation that a rule may ask for.
Need: TypeAlias = Literal[
  'losses', 'gramian', 'jacobian', 'cross_gramian', 'losses_after'
]
# An array, or None if the rule did not ask for it. `stateless` and `stateful`
# check that it is there, so that no rule has to.
IfNeeded: TypeAlias = Any

# Field -> the argument of `balance`'s `update` that it is made from.
EXTRA_ARGS: dict[str, str] = {
  'cross_gramian': 'independent_updates',
  'losses_after': 'losses_after',
}


class Observation(NamedTuple):
  """What a weighting sees at one step; the primary objective comes first.

  A weighting reads only the fields that it declares in `Weighting.needs`; the
  others may be None.
  """

  losses: jax.Array  # [K], float32 or wider
  gramian: IfNeeded = None  # [K, K], J Jᵀ, float32 or wider
  jacobian: PyTree = None  # J: one leaf a parameter, [K, *shape]
  # [K, K], J₁ J₂ᵀ of two batches that are independent of each other
  cross_gramian: IfNeeded = None
  # [K], of the batch of the step before, at the params it led to
  losses_after: IfNeeded = None
  # [K], the number of rows that each loss is the mean of, 0 if the objective is
  # absent; None if unknown
  rows: IfNeeded = None

  @property
  def num_objectives(self) -> int:
    """The number of objectives, K."""
    return self.losses.shape[0]

  @property
  def has_rows(self) -> jax.Array:
    """[K] bool, which objectives have rows; all, if `rows` is None."""
    if self.rows is None:
      return jnp.ones(self.losses.shape, bool)
    return self.rows > 0

  @property
  def present(self) -> jax.Array:
    """[K] bool, which objectives have rows and a gradient; all, if none has.

    A modality that is absent from a batch has a gradient of zeros. Losses alone
    do not tell whether it is absent; then `rows` must.
    """
    if self.gramian is not None:
      has_gradient = jnp.diagonal(self.gramian) != 0
    elif self.jacobian is not None:
      has_gradient = jnp.stack(
        [
          jnp.any(leaf != 0, axis=tuple(range(1, leaf.ndim)))
          for leaf in jax.tree.leaves(self.jacobian)
        ]
      ).any(0)
    elif self.cross_gramian is not None:
      nonzero = self.cross_gramian != 0
      has_gradient = jnp.any(nonzero, axis=0) & jnp.any(nonzero, axis=1)
    else:
      has_gradient = jnp.ones(self.losses.shape, bool)
    # Where no gradient is left, all that have rows.
    both = self.has_rows & has_gradient
    present = jnp.where(jnp.any(both), both, self.has_rows)
    return present | ~jnp.any(present)


class Direction(NamedTuple):
  """A combined gradient that is no weighting of this step's gradients.

  Rules that remember gradients return it in place of weights.
  """

  updates: PyTree  # like params
  weights: jax.Array  # [K], for the log


class Weighting(NamedTuple):
  """A rule that turns an observation into one weight for each objective.

  The weights that `update` returns are `[K]`; or shaped like the Jacobian, for
  rules that weigh every coordinate on its own; or a `mimo_jax.Direction`, for
  rules that remember gradients. The combined gradient is `weightsᵀ J`, or that
  direction.

  Attributes:
    init: `init(num_objectives, params=None) -> state`; `params` gives shapes to
      rules that remember gradients. If the shapes of the state depend on
      `num_objectives`, `mimo_jax.balance` must be given `objectives`.
    update: `update(observation, state) -> (weights, state)`, a pure function.
    needs: the fields of the observation that `update` reads. 'losses' are
      always there, and cost one backward pass. 'gramian' and 'jacobian' (which
      includes the Gramian) cost K. 'cross_gramian' and 'losses_after' are made
      of extra arguments, which the `update` of `balance` must then be given:
      see `extra_args`.
    has_primary: whether the rule treats the first objective unlike the others,
      as MIMO treats the fused loss. `balance(primary=None)` refuses such a
      rule.

  Examples:
    A rule of your own, with twice as much weight on the primary objective:

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
  needs: Need | tuple[Need, ...]
  has_primary: bool = False

  @property
  def extra_args(self) -> tuple[str, ...]:
    """The extra arguments that the `update` of `balance` must be given."""
    return tuple(
      EXTRA_ARGS[need] for need in names_of(self.needs) if need in EXTRA_ARGS
    )


def names_of(needs: Need | tuple[Need, ...]) -> tuple[Need, ...]:
  """Returns `needs` as a tuple, whether it is one field or several."""
  return (needs,) if isinstance(needs, str) else tuple(needs)


def check_weighting(who: str, value: Any) -> None:
  """Checks that `value` is a weighting, and needs only known fields."""
  if not isinstance(value, Weighting):
    raise ValueError(
      f'{who} was given weighting={value!r}; expected a mimo_jax.Weighting,'
      ' such as mimo_jax.mimo() (called).'
    )
  if not set(names_of(value.needs)) <= set(get_args(Need)):
    raise ValueError(
      f'{who} was given a weighting with needs={value.needs!r}; expected'
      f' one or several of {get_args(Need)}.'
    )


def and_gramian(who: str, weighting: Weighting) -> Need | tuple[Need, ...]:
  """Returns a rule's needs plus the Gramian, for wrappers that use lengths."""
  check_weighting(who, weighting)
  names = names_of(weighting.needs)
  if 'cross_gramian' in names:
    raise ValueError(
      f'{who} was given a weighting that needs the cross_gramian, which has no'
      ' lengths of gradients; expected one that needs the losses, the Gramian'
      ' or the Jacobian.'
    )
  if {'gramian', 'jacobian'} & set(names):
    return weighting.needs
  return (*names, 'gramian')


def for_each_objective(weights: PyTree) -> jax.Array:
  """Returns weights as [K]; weights of each coordinate are averaged."""
  if isinstance(weights, Direction):
    return weights.weights
  leaves = jax.tree.leaves(weights)
  count = max(1, sum(leaf[0].size for leaf in leaves))
  return sum(leaf.reshape(leaf.shape[0], -1).sum(1) for leaf in leaves) / count


class StatelessState(NamedTuple):
  """State of a weighting that remembers nothing."""


def stateless(
  weigh: Callable[[Observation], PyTree],
  *,
  needs: Need | tuple[Need, ...],
  has_primary: bool = False,
) -> Weighting:
  """Makes a weighting of a function `weigh(observation) -> weights`.

  `Weighting` has an example.

  Args:
    weigh: pure function from an `Observation` to weights.
    needs: the field of the observation that `weigh` reads, or several, as in
      `Weighting`.
    has_primary: as in `Weighting`.

  Returns:
    The weighting, whose state is empty.
  """
  return stateful(
    lambda _: StatelessState(),
    lambda observation, state: (weigh(observation), state),
    needs=needs,
    has_primary=has_primary,
  )


def stateful(
  init: Callable[..., PyTree],
  update: Callable[[Observation, PyTree], tuple[PyTree, PyTree]],
  *,
  needs: Need | tuple[Need, ...],
  has_primary: bool = False,
) -> Weighting:
  """Makes a weighting of a function that has a state.

  The `update` of the weighting does the following around yours. It raises an
  error that names what is missing from an observation. It sets the weights of
  absent objectives to 0, gives weights the type of the losses, keeps the types
  of the state, and refuses a state of another form.

  Args:
    init: `init(num_objectives) -> state`, or `init(num_objectives, params)`
      if the shapes of params matter.
    update: `update(observation, state) -> (weights, state)`.
    needs: the field of the observation that `update` reads, or several, as in
      `Weighting`.
    has_primary: as in `Weighting`.

  Returns:
    The weighting.

  Examples:
    Weights proportional to a running mean of the losses:

    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> def init(num_objectives):
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
  takes_params = _takes_two(init)

  @functools.cache
  def form_of_state(num_objectives: int) -> Any:
    return _form(jax.eval_shape(lambda: init(num_objectives)))

  def init_state(num_objectives: int, params: PyTree = None) -> PyTree:
    return _numerics.own(
      init(num_objectives, params) if takes_params else init(num_objectives)
    )

  def checked_update(
    observation: Observation, state: PyTree
  ) -> tuple[PyTree, PyTree]:
    for need in names_of(needs):
      if getattr(observation, need) is None:
        made_of = (
          f', from the extra argument {EXTRA_ARGS[need]!r} of its update'
          if need in EXTRA_ARGS
          else ''
        )
        raise ValueError(
          f'This weighting needs the {need}; the observation has {need}=None.'
          f' `mimo_jax.balance` makes what `Weighting.needs` names{made_of}.'
        )
    if not takes_params:
      size = observation.num_objectives
      form = form_of_state(size)
      if form[0].num_leaves and _form(state) != form:
        raise ValueError(
          f'A weighting was given a state of shape {_form(state)[1]}; expected'
          f' {form[1]}, which its init({size}) returns. Use a state with the'
          ' rule that made it, for the same number of objectives, or begin anew'
          ' with init.'
        )
    returned = update(observation, state)
    if not isinstance(returned, tuple) or len(returned) != 2:
      raise ValueError(
        f'The update of a weighting returned a {type(returned).__name__};'
        ' expected a pair, (weights, state).'
      )
    weights, new_state = returned
    _check_shapes(weights, observation)
    _check_state(new_state, state)
    dtype, rows = observation.losses.dtype, observation.rows

    def without_absent(leaf: jax.Array) -> jax.Array:
      leaf = jnp.asarray(leaf, dtype)
      if rows is not None:
        leaf = jnp.where(_numerics.for_each_row(rows > 0, leaf), leaf, 0)
      if not {'gramian', 'jacobian', 'cross_gramian'} & set(names_of(needs)):
        return leaf
      present = _numerics.for_each_row(observation.present, leaf)
      left = jnp.where(present, leaf, 0)
      # If only absent objectives have weight, the rule means to stop the
      # others.
      return jnp.where(jnp.any(left != 0), left, leaf)

    if isinstance(weights, Direction):
      weights = weights._replace(weights=without_absent(weights.weights))
    else:
      weights = jax.tree.map(without_absent, weights)
    new_state = jax.tree.map(_numerics.keep_type, new_state, state)
    if rows is not None:  # A batch without any objective changes nothing.
      some = jnp.any(rows > 0)
      new_state = jax.tree.map(
        lambda new, old: jnp.where(some, new, old), new_state, state
      )
      if isinstance(weights, Direction):
        weights = jax.tree.map(lambda leaf: jnp.where(some, leaf, 0), weights)
    return weights, new_state

  return Weighting(init_state, checked_update, needs, has_primary)


def _check_shapes(weights: PyTree, observation: Observation) -> None:
  """Checks that weights have one of the forms that `Weighting` allows."""
  shapes = jax.tree.map(jnp.shape, weights)
  size = observation.losses.shape
  each = jax.tree.map(jnp.shape, observation.jacobian)
  if not isinstance(weights, Direction) and shapes not in (size, each):
    raise ValueError(
      f'A weighting returned weights of shape {shapes}; expected an array of'
      f' shape {size}, a weight for each objective, or a mimo_jax.Direction. A'
      ' weighting that needs the jacobian may return arrays shaped like it.'
    )


def _check_state(new: PyTree, old: PyTree) -> None:
  """Checks that a state keeps its form, as `lax.scan` needs it, too."""
  if _form(new) != _form(old):
    raise ValueError(
      f'A weighting turned a state of shape {_form(old)[1]} into one of shape'
      f' {_form(new)[1]}; expected the form that its init returned.'
    )


def _form(state: PyTree) -> tuple[Any, PyTree]:
  """Returns the structure of a state, and the shapes of its leaves."""
  return jax.tree.structure(state), jax.tree.map(jnp.shape, state)


def _takes_two(function: Callable[..., Any]) -> bool:
  """Whether a function can be called with two arguments."""
  try:
    inspect.signature(function).bind(None, None)
  except TypeError:
    return False
  return True
