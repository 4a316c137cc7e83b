"""Optimizer states of which parts can stand still."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Path = tuple[str, ...]


def chosen(
  params: Any,
  old: optax.OptState,
  new: optax.OptState,
  is_new: Callable[[Path], Any],
) -> optax.OptState:
  """An optimizer's state: new of some parameters, and old of the others.

  Args:
    params: what it optimizes.
    old: its state.
    new: its state, too. Counts of steps and what else is of no parameter are
      those of it.
    is_new: whether a parameter's moments and averages are those of `new`, by
      the keys on its path; may be traced.

  Examples:
    >>> params = {'here': jnp.float32(1), 'there': jnp.float32(2)}
    >>> optimizer = optax.trace(0.9)
    >>> old = optimizer.init(params)
    >>> _, new = optimizer.update(params, old)
    >>> found = chosen(params, old, new, lambda path: path[0] == 'here')
    >>> jax.tree.map(float, found.trace)
    {'here': 1.0, 'there': 0.0}
  """
  choices = {
    keys_of(path): is_new(keys_of(path))
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  lengths = {len(path) for path in choices}

  def choose(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> Any:
    # What is remembered of a parameter is at the end of a path by its own.
    keys = keys_of(path)
    for length in lengths:
      if (tail := keys[-length:]) in choices:
        return jnp.where(choices[tail], new, old)
    return new

  return jax.tree_util.tree_map_with_path(choose, old, new)


def standing_still(
  optimizer: optax.GradientTransformation, part_of: Callable[[Path], str | None]
) -> optax.GradientTransformationExtraArgs:
  """An optimizer, to parts of the parameters of which a step may do nothing.

  They are not moved by weight decay or momentum either, what is remembered of
  them stands still, and they do not count in the norm that gradients are
  clipped by. Schedules go on for all.

  Args:
    optimizer: of all parameters.
    part_of: the name of the part that a parameter belongs to, by its path, or
      None if it is always moved.

  Returns:
    A transformation that takes the extra argument `still`, part -> [], which is
    not 0 if it stands still.
  """
  inner = optax.with_extra_args_support(optimizer)

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    *,
    still: dict[str, jax.Array],
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    def moves(path: Path) -> Any:
      part = part_of(path)
      return True if part is None else still[part] == 0

    def moving(tree: optax.Updates) -> optax.Updates:
      return mapped(
        lambda path, leaf: jnp.where(moves(path), leaf, jnp.zeros_like(leaf)),
        tree,
      )

    found, new = inner.update(moving(updates), state, params, **extra_args)
    return moving(found), chosen(updates, state, new, moves)

  return optax.GradientTransformationExtraArgs(inner.init, update)


def mapped(function: Callable[[Path, Any], Any], tree: Any) -> Any:
  """Applies a function of its path and its value to each leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: function(keys_of(path), leaf), tree
  )


def keys_of(path: tuple[Any, ...]) -> Path:
  """A path of JAX as words."""
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
