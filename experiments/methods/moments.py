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
  """Mixes two optimizer states: new for some parameters, old for the others.

  Step counts, and all else that belongs to no parameter, are new. `is_new` says
  by the keys on a parameter's path whether its moments and averages are; that
  may be traced.
  """
  choices = {
    keys_of(path): is_new(keys_of(path))
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  lengths = {len(path) for path in choices}

  def choose(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> Any:
    # The path of a parameter's moment ends with the path of the parameter.
    keys = keys_of(path)
    for length in lengths:
      if (tail := keys[-length:]) in choices:
        return jnp.where(choices[tail], new, old)
    return new

  return jax.tree_util.tree_map_with_path(choose, old, new)


def standing_still(
  optimizer: optax.GradientTransformation, part_of: Callable[[Path], str | None]
) -> optax.GradientTransformationExtraArgs:
  """An optimizer with parts of the parameters that may stand still in a step.

  Neither weight decay nor momentum moves such a part, its moments do not
  change, and it does not count in the norm by which gradients are clipped.
  Schedules go on for all.

  `part_of` finds the name of a parameter's part by the keys on its path, or
  None if it never stands still. The transformation takes the extra argument
  `still`, part -> [], which is not 0 if the part stands still.
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
  """Maps each leaf by a function of its path and value."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: function(keys_of(path), leaf), tree
  )


def keys_of(path: tuple[Any, ...]) -> Path:
  """The names on a path of JAX."""
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
