"""Optimizer states of which parts can stand still."""

import functools
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

  `is_new` says by the keys on a parameter's path whether its moments and
  averages are; that may be traced. The count of steps that stands beside
  moments, by which Adam corrects their bias, is new if any of them is: give
  parts that differ a state each, see `apart`. All else, such as the counts of
  schedules, is new.
  """
  choices = {
    keys_of(path): is_new(keys_of(path))
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  lengths = {len(path) for path in choices}

  def parameter_of(keys: Path) -> Path | None:
    # The path of a parameter's moment ends with the path of the parameter.
    tails = (keys[-length:] for length in lengths)
    return next((tail for tail in tails if tail in choices), None)

  beside: dict[Path, list[Any]] = {}  # place of moments -> their choices
  for path, _ in jax.tree_util.tree_leaves_with_path(new):
    keys = keys_of(path)
    if (parameter := parameter_of(keys)) is not None:
      place = keys[: -len(parameter) - 1]
      beside.setdefault(place, []).append(choices[parameter])

  def choose(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> Any:
    keys = keys_of(path)
    if (parameter := parameter_of(keys)) is not None:
      return jnp.where(choices[parameter], new, old)
    if (found := beside.get(keys[:-1])) is not None:
      return jnp.where(functools.reduce(jnp.logical_or, found), new, old)
    return new

  return jax.tree_util.tree_map_with_path(choose, old, new)


def apart(
  optimizer: optax.GradientTransformation, part_of: Callable[[Path], str | None]
) -> optax.GradientTransformationExtraArgs:
  """The optimizer, with a state for each part of the parameters.

  So each part has its own count of steps. `part_of` is that of
  `standing_still`.
  """

  def of(tree: Any) -> optax.GradientTransformationExtraArgs:
    labels = mapped(lambda path, _: part_of(path) or '', tree)
    return optax.partition(
      dict.fromkeys(jax.tree.leaves(labels), optimizer), labels
    )

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    return of(updates).update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(
    lambda params: of(params).init(params), update
  )


def standing_still(
  optimizer: optax.GradientTransformation, part_of: Callable[[Path], str | None]
) -> optax.GradientTransformationExtraArgs:
  """An optimizer with parts of the parameters that may stand still in a step.

  Neither weight decay nor momentum moves such a part, its moments and their
  count of steps do not change (if the optimizer keeps them `apart`), and it
  does not count in the norm by which gradients are clipped. Schedules go on for
  all.

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
